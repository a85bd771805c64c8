"""Load for a supervisor: threads that make every kind of call and know what each may answer.

Each thread has a ``random.Random`` of its own, and keys and files of its own, so what it was acknowledged is what has
to be there.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from conftest import Workspace
from invariants import Watch
from isoplug.supervisor import PluginError, Supervisor, SupervisorClosed

__all__ = ["Load", "envelope", "found", "innermost", "nested", "serves_again"]


def envelope(function: str, payload: Any) -> bytes:
    """The input of the probe's raw export ``host``."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return json.dumps({"function": function, "input_base64": base64.b64encode(data).decode()}).encode()


def nested(path: Sequence[str], command: str, params: Any = None) -> dict[str, Any]:
    """The params of ``call`` in a first plugin that goes on to each of ``path`` and runs ``command`` in the last."""
    *between, last = path
    request: dict[str, Any] = {"plugin_id": last, "command": command, "params": params}
    for plugin_id in reversed(between):
        request = {"plugin_id": plugin_id, "command": "call", "params": request}
    return request


def innermost(answer: Any) -> Any:
    while isinstance(answer, dict) and answer.get("success") and isinstance(answer.get("data"), dict):
        answer = answer["data"]
    return answer


class Load(threading.Thread):
    """Calls until ``until`` (monotonic seconds); ``url`` is a server that answers every POST with its own body."""

    def __init__(
        self,
        number: int,
        watch: Watch,
        plugin_ids: Sequence[str],
        seed: int,
        until: float,
        *,
        workspace: Workspace | None = None,
        url: str | None = None,
        has_program: bool = False,
        timeout: float = 1.5,
    ) -> None:
        super().__init__(name=f"load-{number}")
        self._watch, self._ids, self._until = watch, plugin_ids, until
        self._number = number
        self._chance = random.Random(seed * 1000 + number)
        self._workspace, self._url, self._timeout = workspace, url, timeout
        self._round = 0
        self._kinds: list[Callable[[], None]] = [self._echo] * 8 + [self._store] * 6 + [self._count, self._list] * 3
        self._kinds += [self._nest, self._opposite] * 2 + [self._fail, self._overrun, self._event]
        if workspace is not None:
            self._kinds += [self._write_file] * 4
        if url is not None:
            self._kinds += [self._post] * 4
        if has_program:
            self._kinds.append(self._run_program)

    def end(self) -> None:
        self._until = 0.0

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._round += 1
                answered = self._watch.answers["answered"]
                self._chance.choice(self._kinds)()
                if self._watch.answers["answered"] == answered:  # refused at once, perhaps: no busy loop
                    time.sleep(0.002)
        except SupervisorClosed:
            return  # from ``emit``, which raises it itself
        except Exception as error:  # noqa: BLE001  an error in a thread would go unseen
            self._watch.note(f"{self.name}: {type(error).__name__}: {error}")

    @property
    def _unique(self) -> str:
        """An input that kills twice is set aside, so each is another one."""
        return f"{self.name}-{self._round}"

    @property
    def _anybody(self) -> str:
        return self._chance.choice(self._ids)

    def _ask(self, function: str, payload: Any, plugin_id: str | None = None) -> Any:
        return self._watch.call(plugin_id or self._anybody, "host", envelope(function, payload), self._timeout)

    def _echo(self) -> None:
        payload = f"{self.name}-{self._round}".encode() * self._chance.choice([1, 100, 10_000])
        answer = self._watch.call(self._anybody, "echo", payload, self._timeout)
        self._watch.expect(isinstance(answer, PluginError) or answer == payload, "an echo came back as another's")

    def _count(self) -> None:
        answer = self._watch.command(self._anybody, "count", self._round, self._timeout)
        self._watch.expect(isinstance(answer, (PluginError, int)), f"count answered {answer!r}")

    def _store(self) -> None:
        plugin_id = self._anybody
        name = f"{self.name}-{self._chance.randrange(5)}"
        value = f"{self._round}".encode()
        key = f"storage:{plugin_id}:{name}"
        self._watch.ledger.may_become(key, value)
        data = {"key": name, "data": base64.b64encode(value).decode()}
        if self._ask("host_storage_set", data, plugin_id) == b"":
            self._watch.ledger.became(key, value)

    def _write_file(self) -> None:
        name, content = f"{self.name}-{self._chance.randrange(5)}.md", f"{self._round} " * 50
        key = f"file:{name}"
        self._watch.ledger.may_become(key, content.encode())
        if self._ask("host_write_file", {"path": name, "content": content}) == b"":
            self._watch.ledger.became(key, content.encode())

    def _list(self) -> None:
        self._ask("host_list_files", {"prefix": ""})

    def _post(self) -> None:
        body = f"{self.name}-{self._round}"
        answer = self._ask("host_http_request", {"url": self._url, "method": "POST", "headers": {}, "body": body})
        if isinstance(answer, bytes):
            told = json.loads(answer)
            self._watch.expect(told["status"] == 200 and told["body"] == body, f"a request was answered {told}")

    def _run_program(self) -> None:
        answer = self._ask("host_run_wasi_module", {"module_key": "m", "args": ["args", self.name]}, self._ids[0])
        if isinstance(answer, bytes):
            told = json.loads(answer)
            self._watch.expect("exit_code" in told, f"a program was answered {told}")

    def _nest(self) -> None:
        path = [self._ids[step % 2] for step in range(self._chance.randint(2, 5))]
        answer = self._watch.command(path[0], "call", nested(path[1:], "echo", self._round), self._timeout)
        if not isinstance(answer, PluginError):
            last = innermost(answer)
            self._watch.expect(
                last == {"success": True, "data": self._round} or last.get("success") is False, f"nested: {answer}"
            )

    def _opposite(self) -> None:
        first, second = self._chance.sample(list(self._ids), 2)
        self._watch.command(first, "call", nested([second], "echo", self._round), self._timeout)

    def _fail(self) -> None:
        command = self._chance.choice(["segv", "trap", "fail"])
        answer = self._watch.command(self._anybody, command, {"call": self._unique}, self._timeout)
        self._watch.expect(isinstance(answer, PluginError), f"a call that had to fail answered {answer!r}")

    def _overrun(self) -> None:
        command, timeout = self._chance.choice(["spin", "spin_host", "log_flood"]), self._chance.uniform(0.01, 0.2)
        answer = self._watch.command(self._anybody, command, {"call": self._unique}, timeout)
        self._watch.expect(isinstance(answer, PluginError), f"a call that had to fail answered {answer!r}")

    def _event(self) -> None:
        path = self._chance.choice(["a.md", "b.md", "fail", "trap"])
        self._watch.supervisor.emit("file_saved", {"path": path})


def found(supervisor: Supervisor, workspace: Workspace, key: str) -> bytes | None:
    """What a service holds under a key of the ledger."""
    kind, _, rest = key.partition(":")
    if kind == "file":
        path = workspace.path / rest
        return path.read_bytes() if path.exists() else None
    plugin_id, _, name = rest.partition(":")
    return supervisor._services.storage.get(plugin_id, name)


def serves_again(supervisor: Supervisor, plugin_id: str) -> bool:
    try:
        return supervisor.call(plugin_id, "echo", b"still here", timeout=2.0) == b"still here"
    except PluginError:
        supervisor.reset(plugin_id)
        return False
