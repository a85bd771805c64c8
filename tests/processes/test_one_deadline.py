"""Whatever a call waits for, it ends by its deadline. Other files have the guests that spin (test_timeouts.py), the
services that hang (test_slow_services.py), the queues and the network."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import CallTimeout, Outcome, Supervisor, database
from isoplug.supervisor.config import Calls, Config

A, B = "test.a", "test.b"
#: Far above what any of this takes, and below every patience that is not the caller's.
SOON_SECONDS = 20.0


@contextmanager
def soon() -> Iterator[None]:
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < SOON_SECONDS


@pytest.fixture(autouse=True)
def a_database_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 2 * SOON_SECONDS)


@pytest.fixture
def both(plugins: PluginFolder, workspace: Workspace) -> PluginFolder:
    for plugin_id in (A, B):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"], plugin_storage=["all"])
    return plugins


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """As by another process in the midst of a long transaction."""
    other = sqlite3.connect(next(state.rglob("storage.sqlite3")), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def store(key: str) -> dict[str, str]:
    return {"function": "host_storage_set", "input": json.dumps({"key": key, "data": "eA=="})}


def test_a_database_that_another_process_holds(
    both: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    supervisor = supervise()
    supervisor.command(A, "host", store("k"))
    with locked(tmp_path / "state"), soon(), pytest.raises(CallTimeout) as caught:
        supervisor.command(A, "host", store("k"), timeout=0.5)
    assert caught.value.outcome is Outcome.NO_EFFECTS
    assert supervisor.command(A, "host", store("k"))["answer"] == ""


def test_a_database_that_others_wait_for(
    both: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    supervisor = supervise()
    supervisor.command(A, "host", store("k"))
    with ThreadPoolExecutor(1) as threads, locked(tmp_path / "state"):
        patient = threads.submit(supervisor.command, A, "host", store("k"), timeout=60.0)
        wait_until(lambda: supervisor.plugins[A].status.state == "busy")
        with soon(), pytest.raises(CallTimeout):
            supervisor.command(B, "host", store("k"), timeout=0.5)
    assert patient.result() is not None


class Sink:
    """A host that takes its time over an event."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def emit(self, plugin_id: str, event_json: str) -> None:
        self.go_on.wait()


def test_an_event_sink_of_the_host_s_own(both: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    sink = Sink()
    supervisor = supervise(events=sink)
    try:
        with soon(), pytest.raises(CallTimeout):
            supervisor.command(A, "host", {"function": "host_emit_event", "input": "{}"}, timeout=0.5)
    finally:
        sink.go_on.set()


def test_a_change_of_configuration_behind_another_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(A)
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=0.3)))
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(supervisor.set_config, A, {"set_config": "spin"}, timeout=2.5)
        wait_until(lambda: supervisor.plugins[A].status.state == "busy")
        with soon(), pytest.raises(CallTimeout) as caught:
            supervisor.set_config(A, {"colour": "blue"}, timeout=0.3)
        assert caught.value.outcome is Outcome.NOT_DELIVERED
        with pytest.raises(CallTimeout):
            slow.result()


def test_a_start_of_another_instance_within_the_call(both: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=0.3)))
    supervisor.plugins[A].config_path.write_text(json.dumps({"init": "spin"}))  # for instances that are started now
    back: Any = {"plugin_id": A, "command": "count", "params": None}
    request = {"plugin_id": B, "command": "call", "params": back}
    with soon(), pytest.raises(CallTimeout) as caught:
        supervisor.command(A, "call", request, timeout=1.0)
    assert caught.value.timeout_seconds == 1.0


def test_reading_the_files_that_are_offered_counts(
    both: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    supervisor = supervise()
    pids = supervisor.plugins[A].status.worker_pids
    file = tmp_path / "offered"
    file.write_bytes(bytes(1 << 24))
    with soon(), pytest.raises(CallTimeout) as caught:
        supervisor.command(A, "echo", files={str(number): file for number in range(20)}, timeout=0.001)
    assert caught.value.outcome is Outcome.NOT_DELIVERED
    assert supervisor.plugins[A].status.worker_pids == pids


def test_a_token_that_is_cancelled_is_seen_in_nested_calls_and_extra_instances(
    both: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    supervisor = supervise()
    supervisor.cancel(A, "stop")
    asked = {"calls": [{"function": "host_is_cancelled", "input": '{"token": "stop"}'}]}
    back = {"plugin_id": A, "command": "host_then", "params": asked}
    request = {"plugin_id": B, "command": "call", "params": back}
    answer = supervisor.command(A, "call", request)
    assert answer["data"]["data"] == ['{"cancelled":true}']
    assert supervisor.command(B, "host_then", asked) == ['{"cancelled":false}']  # it was A's token
