"""A call that ends while the host works for it leaves nothing behind: no socket, no process, no folder.

The table of host calls that wait for something outside, and of the ways in which a call ends. The server takes each
request and never answers; the program never ends. What is left is counted by the fixture ``leaves_nothing_behind``,
and by the server, which sees its connections closed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import PROBE, ask
from conftest import PluginFolder, Workspace, wait_until, wasi_programs
from guests.wasi import wasi_program
from isoplug.supervisor import AsyncSupervisor, CallTimeout, PluginError, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Http, Limits, Namespaces, Server
from peers import SocketPeer, serve_bytes

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "http": ("host_http_request", {"url": "URL", "method": "POST", "headers": {}, "body": "x" * 100_000}),
    "proxy": ("host_proxy_request", {"proxy_id": "p", "body": "{}"}),
    "namespace": ("host_namespace_get_object", {"ns_id": "n", "key": "k"}),
    "batches": ("host_namespace_get_objects_batches_concurrent", {"ns_id": "n", "batches": [["a"], ["b"], ["c"]]}),
    "wasi": ("host_run_wasi_module", {"module_key": "m", "args": ["spin"], "files": {"a": "AAAA"}}),
}


@pytest.fixture
def silent() -> Iterator[SocketPeer]:
    """A server that never answers."""
    with serve_bytes(lambda _: None) as peer:
        yield peer


@pytest.fixture
def arguments(
    silent: SocketPeer, plugins: PluginFolder, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("TEST_TOKEN", "token")
    plugins.add()
    workspace.grant(http_requests=["all"], plugin_storage={"include": ["all"], "quota_bytes": 10 << 20})
    config = Config(
        http=Http(allow_private=("localhost",)),
        server=Server(url=silent.url("/"), auth_token_env="TEST_TOKEN"),
        namespaces=Namespaces(provider="server"),
        limits=Limits(storage_quota=10 << 20),
    )
    return {
        "plugins_dir": plugins.path,
        "workspace": workspace.path,
        "state_dir": tmp_path / "state",
        "config": config,
    }


@pytest.fixture
def supervisor(arguments: dict[str, Any], guest_cache: Path) -> Iterator[Supervisor]:
    with Supervisor(**arguments) as supervisor:
        store_program(supervisor, guest_cache)
        yield supervisor


def store_program(supervisor: Supervisor, cache: Path) -> None:
    program = base64.b64encode(wasi_program(cache)).decode()
    assert ask(supervisor, "host_storage_set", {"key": "m", "data": program}) == b""


def request_of(name: str, peer: SocketPeer) -> tuple[str, str]:
    function, payload = REQUESTS[name]
    return function, json.dumps(payload).replace("URL", peer.url("/"))


def is_at_work(name: str, peer: SocketPeer) -> bool:
    """The server has the request, or the program spins."""
    return bool(wasi_programs(psutil.Process())) if name == "wasi" else bool(peer.requests)


def nothing_is_left_of_it(peer: SocketPeer) -> bool:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    return (
        not wasi_programs(psutil.Process())
        and not connections_to(peer.port)
        and not any(runtime.glob("isoplug-*/wasi-*"))
    )


def connections_to(port: int) -> list[Any]:
    return [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port]


class Call(threading.Thread):
    """One host call of the probe, in a thread of its own; ``error`` is how it ended."""

    def __init__(self, supervisor: Supervisor, function: str, payload: str, **call: Any) -> None:
        super().__init__()
        self._run = lambda: ask(supervisor, function, payload, **call)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.error = error


@pytest.mark.parametrize("name", REQUESTS)
def test_a_worker_killed_during_a_host_call_leaves_nothing(
    supervisor: Supervisor, silent: SocketPeer, name: str
) -> None:
    call = Call(supervisor, *request_of(name, silent))
    call.start()
    wait_until(lambda: is_at_work(name, silent))
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    os.kill(pid, signal.SIGKILL)
    call.join()  # long before the call's 30 seconds: the fixture's timeout would end the test
    assert isinstance(call.error, WorkerCrashed)
    assert call.error.signal == signal.SIGKILL
    wait_until(lambda: nothing_is_left_of_it(silent))
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_call_that_meets_its_deadline_in_a_host_call_leaves_nothing(
    supervisor: Supervisor, silent: SocketPeer, name: str
) -> None:
    with pytest.raises(CallTimeout):
        ask(supervisor, *request_of(name, silent), timeout=2.0 if name == "wasi" else 0.8)  # a process starts in it
    wait_until(lambda: nothing_is_left_of_it(silent))
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


@pytest.mark.parametrize("name", REQUESTS)
def test_closing_the_supervisor_during_a_host_call_leaves_nothing(
    arguments: dict[str, Any], guest_cache: Path, silent: SocketPeer, name: str
) -> None:
    arguments["config"] = arguments["config"].override(calls={"shutdown_timeout": 0.1})
    supervisor = Supervisor(**arguments)
    try:
        store_program(supervisor, guest_cache)
        call = Call(supervisor, *request_of(name, silent))
        call.start()
        wait_until(lambda: is_at_work(name, silent))
    finally:
        supervisor.close()
    call.join()
    assert isinstance(call.error, PluginError)
    wait_until(lambda: nothing_is_left_of_it(silent))


@pytest.mark.parametrize("name", REQUESTS)
def test_cancelling_a_task_during_a_host_call_leaves_nothing(
    arguments: dict[str, Any], guest_cache: Path, silent: SocketPeer, name: str
) -> None:
    with Supervisor(**arguments) as supervisor:
        store_program(supervisor, guest_cache)
    function, payload = request_of(name, silent)
    data = json.dumps({"function": function, "input": payload}).encode()

    async def scenario() -> None:
        async with AsyncSupervisor(**arguments) as supervisor:
            task = asyncio.create_task(supervisor.call(PROBE, "host", data))
            await asyncio.to_thread(wait_until, lambda: is_at_work(name, silent))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, lambda: nothing_is_left_of_it(silent))
            assert await supervisor.call(PROBE, "echo", b"next") == b"next"

    asyncio.run(scenario())


def test_the_check_for_connections_sees_one(silent: SocketPeer) -> None:
    with socket.create_connection(("127.0.0.1", silent.port)):
        assert connections_to(silent.port)
    wait_until(lambda: not connections_to(silent.port))
