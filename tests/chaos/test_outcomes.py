"""What failed calls say that they have done, under signals, compared with what has happened."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import Bench, open_bench
from conftest import wait_until
from faults import NIGHTLY, Storm, chaos_seconds, new_seed
from invariants import Watch
from isoplug.shared.record import CallRecord, Outcome
from isoplug.supervisor import PluginError
from isoplug.supervisor.config import Calls, Config, Http, Limits, Restart
from load import found, serves_again
from peers import Answer, HttpPeer, serve

pytestmark = NIGHTLY

A, B = "test.a", "test.b"


@dataclass
class Made:
    """One call: the effects (plugin, kind, target) that it was to have, and what came of it."""

    plugin_id: str
    wanted: list[tuple[str, str, str]]
    record: CallRecord
    answer: Any


@pytest.fixture
def server() -> Iterator[HttpPeer]:
    class EveryPath(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return Answer(body=b"done")

    with serve(EveryPath()) as peer:
        yield peer


@pytest.fixture
def bench(tmp_path: Path, guest_cache: Path) -> Iterator[Bench]:
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.01)
    config = Config(
        restart=restart,
        calls=Calls(timeout=30.0, start_timeout=10.0, shutdown_timeout=2.0),
        http=Http(allow_private=("localhost",)),
        limits=Limits(storage_quota=50 << 20),
    )
    names = ("read_files", "edit_files", "create_files", "http_requests", "execute_commands")
    rules: dict[str, dict[str, Any]] = {
        plugin: {name: ["all"] for name in names} | {"plugin_storage": {"include": ["all"], "quota_bytes": 50 << 20}}
        for plugin in ("a", "b")
    }
    with open_bench(
        tmp_path / "bench", guest_cache, (A, "probe"), (B, "probe"), arguments={"config": config}, **rules
    ) as bench:
        yield bench


class Caller(threading.Thread):
    """Calls with up to four effects each, all of their own; half of them may be repeated."""

    def __init__(self, number: int, watch: Watch, server: HttpPeer, seed: int, until: float) -> None:
        super().__init__(name=f"caller-{number}")
        self.made: list[Made] = []
        self._watch, self._server, self._until = watch, server, until
        self._chance = random.Random(seed + number)

    def run(self) -> None:
        number = 0
        while time.monotonic() < self._until:
            number += 1
            plugin_id = self._chance.choice([A, B])
            wanted, calls = [], [self._question() for _ in range(self._chance.choice([0, 5, 50]))]
            for part in range(self._chance.randrange(5)):
                effect, call = self._effect(plugin_id, f"{self.name}-{number}-{part}")
                wanted.append(effect)
                calls.append(call)
            record = CallRecord()
            answer = self._watch.call(
                plugin_id,
                "host_many",
                json.dumps({"calls": calls, "unique": f"{self.name}-{number}"}).encode(),
                timeout=self._chance.choice([0.05, 3.0, 5.0]),
                record=record,
                retries=self._chance.choice([0, 5]),
            )
            self.made.append(Made(plugin_id, wanted, record, answer))

    def _question(self) -> dict[str, str]:
        """A host call that changes nothing."""
        return {"function": "host_list_files", "input": json.dumps({"prefix": ""})}

    def _effect(self, plugin_id: str, name: str) -> tuple[tuple[str, str, str], dict[str, str]]:
        function, payload = "host_storage_set", {"key": name, "data": "eA=="}
        effect = (plugin_id, "key_set", name)
        match self._chance.randrange(4):
            case 1:
                function, payload = "host_write_file", {"path": f"{name}.md", "content": "x"}
                effect = (plugin_id, "file_written", f"{name}.md")
            case 2:
                url = self._server.url(f"/{name}")
                function, payload = "host_http_request", {"url": url, "method": "POST", "headers": {}, "body": "x"}
                effect = (plugin_id, "request_sent", f"POST {url}")
            case 3:
                other = B if plugin_id == A else A
                inner = {"function": function, "input": json.dumps(payload)}
                function, payload = "host_plugin_command", {"plugin_id": other, "command": "host", "params": inner}
                effect = (other, "key_set", name)
        return effect, {"function": function, "input": json.dumps(payload)}


def test_the_outcome_of_a_call_tells_the_truth_and_no_retry_does_anything_twice(bench: Bench, server: HttpPeer) -> None:
    seed = new_seed()
    supervisor = bench.supervisor
    until = time.monotonic() + chaos_seconds(1.5)
    with Watch(supervisor) as watch:
        callers = [Caller(number, watch, server, seed, until) for number in range(4)]
        with Storm(supervisor, (A, B), seed, pause_seconds=0.1):
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        for plugin_id in (A, B):
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
        sent = Counter(seen.target for seen in server.seen)

        def happened(effect: tuple[str, str, str]) -> bool:
            plugin_id, kind, target = effect
            match kind:
                case "key_set":
                    return found(supervisor, bench.workspace, f"storage:{plugin_id}:{target}") is not None
                case "file_written":
                    return found(supervisor, bench.workspace, f"file:{target}") is not None
            return f"/{target.rpartition('/')[2]}" in sent

        made = [call for caller in callers for call in caller.made]
        for call in made:
            for broken in lies(call, happened):
                watch.note(broken)
        for target, count in sent.items():
            watch.expect(count == 1, f"{target} was requested {count} times")
        failed = [call for call in made if isinstance(call.answer, PluginError)]
        print(f"outcomes: {Counter(call.record.outcome.value for call in failed)}")
        print(f"attempts: {Counter(call.record.attempts for call in made)}")


def lies(call: Made, happened: Any) -> Iterator[str]:
    """Where the record of a call differs from what has happened."""
    told = {(effect.plugin_id, effect.kind, effect.target): effect.is_certain for effect in call.record.effects}
    for effect in call.wanted:
        did = happened(effect)
        if did and effect not in told:
            yield f"{effect} has happened, the record says {told}: {call.answer!r}"
        if told.get(effect) and not did:
            yield f"{effect} has not happened, the record says so: {call.answer!r}"
        is_own = effect[0] == call.plugin_id  # another plugin's failure is an answer, too
        if is_own and not did and not isinstance(call.answer, PluginError):
            yield f"{effect} has not happened, the call was answered"
    if isinstance(call.answer, PluginError):
        if call.answer.outcome is not call.record.outcome or call.answer.record is not call.record:
            yield f"the error says {call.answer.outcome}, its record {call.record.outcome}"
        if (call.record.outcome is Outcome.EFFECTS) != bool(told):
            yield f"the outcome is {call.record.outcome}, the effects are {told}"
        if call.answer.retryable and told:
            yield f"{call.answer!r} is retryable and has had effects"
