"""Two faults at once, and two in a row: each fault with each other one, whichever faults there are.

Each test has one fault and goes through all others with it. What is asked of a struck call is what its faults promise:
it ends as one of them may end it, and its record tells the truth about what it has done. The next call is none the
worse for it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bench import PROBE, Bench, nothing_left_behind, open_bench
from isoplug.shared.messages import Failed, Returned
from isoplug.shared.record import CallRecord
from isoplug.supervisor import PluginError
from isoplug.supervisor.calls import Delivery, Proceed
from isoplug.supervisor.chaos import Fault, Injector, Plan, Rule, fault_named, fault_names
from isoplug.supervisor.chaos.faults.frames import DuplicateFrame
from isoplug.supervisor.config import Calls, Config, Restart
from load import found

NAMES = fault_names()
#: Whatever becomes of the one reply, the other one may be the answer.
DOUBLED = DuplicateFrame("reply")


class Changing:
    """An interceptor that has another plan for each call."""

    def __init__(self) -> None:
        self.injector = Injector(Plan())

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        return self.injector.intercept(delivery, proceed)


@dataclass
class Range:
    """Where faults are tried: a plugin that does a little of everything, and what struck it last."""

    bench: Bench
    struck: Changing
    calls: Iterator[int]
    strikes: int = 0

    def call(self, *faults: Fault) -> Iterator[str]:
        """One call, struck by these; what was wrong with it."""
        name = f"call-{next(self.calls)}"
        plan = Plan(tuple(Rule(fault, times=1) for fault in faults))
        self.struck.injector = Injector(plan)
        record, answer = CallRecord(), None
        try:
            answer = self.bench.supervisor.call(PROBE, "host_many", requests(name), timeout=30.0, record=record)
        except PluginError as error:
            answer = error
        injected = [injection.fault for injection in self.struck.injector.injections]
        self.strikes += len(injected)
        said = f"{' and '.join(map(str, faults)) or 'a call without faults'}: {answer!r}"
        wrongs = [*wrong_ends(answer, faults, injected), *self.lies(name, answer, record)]
        yield from (f"{said}: {wrong}\n{plan.to_toml()}" for wrong in wrongs)

    def lies(self, name: str, answer: Any, record: CallRecord) -> Iterator[str]:
        """Where the record of a call differs from what it has done."""
        told = {(effect.kind, effect.target): effect.is_certain for effect in record.effects}
        for effect, count in self.done(name).items():
            if count and effect not in told:
                yield f"{effect} has happened, the record has {told}"
            if not count and told.get(effect):
                yield f"{effect} has not happened, the record says so"
            if count > 1:
                yield f"{effect} has happened {count} times"
            if not count and isinstance(answer, list) and not any(map(is_refusal, answer)):
                yield f"{effect} has not happened, the call was answered {answer}"
        if isinstance(answer, PluginError) and answer.retryable and any(self.done(name).values()):
            yield "it is retryable, and has done something"

    def done(self, name: str) -> dict[tuple[str, str], int]:
        """How often each effect of a call has happened."""
        places = {"key_set": f"storage:{PROBE}:{name}", "file_written": f"file:{name}.md"}
        happened = {
            (kind, place.rpartition(":")[2]): int(found(self.bench.supervisor, self.bench.workspace, place) is not None)
            for kind, place in places.items()
        }
        return happened | {
            ("event_emitted", name): sum(json.loads(text)["type"] == name for _, text in self.bench.events)
        }


def requests(name: str) -> bytes:
    """Three host calls that change something, and two that ask."""
    calls: list[tuple[str, Any]] = [
        ("host_storage_set", {"key": name, "data": "eA=="}),
        ("host_list_files", {"prefix": ""}),
        ("host_write_file", {"path": f"{name}.md", "content": "x"}),
        ("host_emit_event", {"type": name}),
        ("host_get_timestamp", None),
    ]
    return json.dumps(
        {"calls": [{"function": function, "input": json.dumps(payload)} for function, payload in calls], "unique": name}
    ).encode()


def is_refusal(answer: str) -> bool:
    return "error" in answer


def wrong_ends(answer: Any, faults: tuple[Fault, ...], injected: list[Fault]) -> Iterator[str]:
    """What the faults do not explain."""
    if isinstance(answer, PluginError):
        if not isinstance(answer, tuple(end for fault in injected for end in fault.ends)):
            yield f"none of {injected} ends a call so"
    elif not all(fault.may_answer for fault in injected) and DOUBLED not in injected:
        yield "it was answered, and one of the faults allows no answer"
    if not injected and faults:
        yield "no fault struck"


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, guest_cache: Any) -> Iterator[Range]:
    struck = Changing()
    config = Config(
        restart=Restart(max_restarts=1000, period=0.001, backoff_initial=0.001, backoff_jitter=0.0),
        calls=Calls(timeout=30.0, shutdown_timeout=2.0),
    )
    rules = {name: ["all"] for name in ("read_files", "create_files", "edit_files", "plugin_storage")}
    folder = tmp_path_factory.mktemp("pairs")
    with open_bench(folder, guest_cache, arguments={"config": config, "interceptors": [struck]}, probe=rules) as bench:
        field = Range(bench, struck, itertools.count(1))
        yield field
    print(f"{field.strikes} faults")


def from_here(name: str) -> list[Fault]:
    """The fault itself and those after it in the alphabet: the others have tests of their own with it."""
    return [fault_named(other) for other in NAMES if other >= name]


@pytest.mark.parametrize("name", NAMES)
def test_two_faults_in_one_call_end_it_as_one_of_them_may_and_the_next_is_answered(field: Range, name: str) -> None:
    fault, wrong = fault_named(name), []
    for other in from_here(name):
        orders = [(fault, other), (other, fault)] if other != fault else [(fault, other)]
        for first, second in orders:
            wrong += field.call(first, second)
            wrong += field.call()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_each_of_two_calls_ends_each_as_it_alone_may(field: Range, name: str) -> None:
    """Before each other one, and after it."""
    fault, wrong = fault_named(name), []
    for other in from_here(name):
        wrong += field.call(fault)
        wrong += field.call(other)
    wrong += field.call(fault)
    wrong += field.call()
    assert not wrong, "\n".join(wrong)
