"""An input that kills workers is set aside; the plugin, and whatever else waits for it, goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import CallRecord, PluginQuarantined, PoisonedInput, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Restart

PROBE = "test.probe"
SOON_SECONDS = 20.0


def config(max_restarts: int) -> Config:
    return Config(restart=Restart(max_restarts=max_restarts, backoff_initial=0.01, backoff_max=0.01))


@pytest.fixture
def start(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> Callable[..., Supervisor]:
    plugins.add(PROBE)
    workspace.grant(PROBE, plugin_storage=["all"], execute_commands=["all"])

    def start(max_restarts: int = 3, **services: Any) -> Supervisor:
        return supervise(config=config(max_restarts), **services)

    return start


def crash(supervisor: Supervisor, params: Any = None, **options: Any) -> None:
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv", params, **options)


def heard(supervisor: Supervisor) -> list[str]:
    """Paths of the events that the plugin's present instance has handled."""
    entries = supervisor.command(PROBE, "events")
    return [entry["input"]["payload"]["path"] for entry in entries if entry["export"] == "on_event"]


def test_an_input_that_killed_two_workers_is_refused_at_once_and_others_are_not(
    start: Callable[..., Supervisor],
) -> None:
    supervisor = start()
    crash(supervisor, "x")
    crash(supervisor, "x")
    for _ in range(10):
        with pytest.raises(PoisonedInput) as caught:
            supervisor.command(PROBE, "segv", "x")
    assert not caught.value.retryable
    assert "SIGSEGV" in caught.value.last_failure
    assert supervisor.command(PROBE, "echo", "x") == "x"
    assert supervisor.plugins[PROBE].status.restarts == 2
    (entry,) = supervisor.poisoned(PROBE)
    assert (entry.plugin_id, entry.fingerprint, entry.what) == (PROBE, caught.value.fingerprint, "command 'segv'")


@pytest.mark.parametrize("max_restarts", [1, 3])
def test_poisoned_inputs_do_not_spend_the_plugin_s_restarts(
    start: Callable[..., Supervisor], max_restarts: int
) -> None:
    supervisor = start(max_restarts)
    for params in range(4):
        crash(supervisor, params)
        crash(supervisor, params)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert len(supervisor.poisoned()) == 4


def test_different_inputs_that_kill_still_quarantine_the_plugin(start: Callable[..., Supervisor]) -> None:
    supervisor = start(max_restarts=2)
    for params in range(3):
        crash(supervisor, params)
    with pytest.raises(PluginQuarantined):
        supervisor.command(PROBE, "echo")


class Deadly:
    """A host whose plugin loses its worker over each file that it asks for, by ``signal``, until that is None."""

    def __init__(self, number: signal.Signals) -> None:
        self.signal: signal.Signals | None = number
        self.supervisor: Supervisor

    def read(self, plugin_id: str, key: str) -> bytes | None:
        if self.signal is not None:
            os.kill(self.supervisor.plugins[plugin_id].status.worker_pids[0], self.signal)
        return b""


#: What gets a guest there.
ASKS = {"function": "host_request_file", "input": '{"key": "k"}'}


def test_a_crash_that_was_not_the_input_s_doing_is_forgotten_when_the_input_is_handled(
    start: Callable[..., Supervisor],
) -> None:
    files = Deadly(signal.SIGTERM)
    files.supervisor = supervisor = start(max_restarts=20, files=files)
    for _ in range(2):
        files.signal = signal.SIGTERM
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "host", ASKS)
        files.signal = None
        assert supervisor.command(PROBE, "host", ASKS)["answer"] == ""
    assert supervisor.poisoned() == []


def test_an_input_whose_workers_somebody_else_killed_is_not_set_aside(start: Callable[..., Supervisor]) -> None:
    files = Deadly(signal.SIGKILL)
    files.supervisor = supervisor = start(max_restarts=20, files=files)
    for _ in range(3):
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "host", ASKS)
    assert supervisor.poisoned() == []
    files.signal = None
    assert supervisor.command(PROBE, "host", ASKS)["answer"] == ""


def test_an_input_can_be_taken_up_again(start: Callable[..., Supervisor]) -> None:
    supervisor = start(max_restarts=20)
    crash(supervisor)
    crash(supervisor)
    supervisor.reset(PROBE)
    (entry,) = supervisor.poisoned(PROBE)  # a reset is about the plugin, not about what it was asked
    assert supervisor.clear_poisoned(PROBE, entry.fingerprint) == 1
    crash(supervisor)
    assert supervisor.poisoned() == []


def test_an_offered_file_is_part_of_the_input(start: Callable[..., Supervisor]) -> None:
    supervisor = start(max_restarts=20)
    crash(supervisor, files={"image": b"broken"})
    crash(supervisor, files={"image": b"broken"})
    crash(supervisor, files={"image": b"sound"})
    with pytest.raises(PoisonedInput):
        supervisor.command(PROBE, "segv", files={"image": b"broken"})


def test_retries_of_a_poisoned_input_end_with_it(start: Callable[..., Supervisor]) -> None:
    record = CallRecord()
    with pytest.raises(PoisonedInput) as caught:
        start(max_restarts=20).command(PROBE, "segv", retries=10, record=record)
    assert record.attempts == 3
    assert caught.value.record is record


def test_a_nested_input_is_set_aside_for_the_plugin_that_it_kills(
    plugins: PluginFolder, start: Callable[..., Supervisor]
) -> None:
    plugins.add("test.b")
    supervisor = start(max_restarts=20)
    request = {"plugin_id": "test.b", "command": "segv", "params": None}
    for _ in range(2):
        assert "SIGSEGV" in supervisor.command(PROBE, "call", request)["error"]
    assert "set aside" in supervisor.command(PROBE, "call", request)["error"]
    assert [entry.plugin_id for entry in supervisor.poisoned()] == ["test.b"]


def test_a_plugin_that_is_loaded_again_begins_without_poisoned_inputs(
    plugins: PluginFolder, start: Callable[..., Supervisor]
) -> None:
    supervisor = start(max_restarts=20)
    crash(supervisor)
    crash(supervisor)
    wasm = supervisor.plugins[PROBE].wasm_path
    supervisor.unload(PROBE)
    supervisor.load_plugin(wasm)
    crash(supervisor)


# --- events -------------------------------------------------------------------------------------------------------


def test_an_event_whose_worker_died_is_delivered_once_more_and_then_set_aside(start: Callable[..., Supervisor]) -> None:
    supervisor = start()
    supervisor.emit("file_saved", {"path": "segv"})
    supervisor.emit("file_saved", {"path": "behind.md"})
    assert supervisor.flush_events(SOON_SECONDS)
    assert heard(supervisor) == ["behind.md"]
    assert supervisor.plugins[PROBE].status.restarts == 2
    (entry,) = supervisor.poisoned(PROBE)
    assert entry.what == "export 'on_event'"


def test_an_event_whose_worker_was_killed_by_somebody_else_arrives(start: Callable[..., Supervisor]) -> None:
    supervisor = start()
    plugin = supervisor.plugins[PROBE]
    os.kill(plugin.status.worker_pids[0], signal.SIGSTOP)
    supervisor.emit("file_saved", {"path": "a.md"})
    supervisor.emit("file_saved", {"path": "b.md"})
    wait_until(lambda: plugin.status.state == "busy")
    wait_until(lambda: plugin.status.calls == 1)
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    assert supervisor.flush_events(SOON_SECONDS)
    assert heard(supervisor) == ["a.md", "b.md"]
    assert supervisor.poisoned() == []


def test_an_event_whose_worker_died_after_effects_is_not_delivered_again(
    start: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = start()
    supervisor.emit("file_saved", {"path": "segv_after_write"})
    supervisor.emit("file_saved", {"path": "behind.md"})
    assert supervisor.flush_events(SOON_SECONDS)
    assert heard(supervisor) == ["behind.md"]
    assert supervisor.plugins[PROBE].status.restarts == 1
    assert "by then it had set on_event" in caplog.text


def test_events_wait_while_the_plugin_is_quarantined_and_arrive_after_its_reset(
    start: Callable[..., Supervisor],
) -> None:
    supervisor = start(max_restarts=0)
    crash(supervisor)
    paths = [f"{number}.md" for number in range(20)]
    for path in paths:
        supervisor.emit("file_saved", {"path": path})
    assert not supervisor.flush_events(SOON_SECONDS)
    supervisor.reset(PROBE)
    assert supervisor.flush_events(SOON_SECONDS)
    assert heard(supervisor) == paths


def test_events_survive_restart_after_restart(start: Callable[..., Supervisor]) -> None:
    supervisor = start(max_restarts=0)
    paths = [f"{number}.md" for number in range(5)]
    for path in paths:
        supervisor.emit("file_saved", {"path": "segv"})
        supervisor.emit("file_saved", {"path": path})
    while supervisor.plugins[PROBE].status.state != "ready" or not supervisor.flush_events(SOON_SECONDS):
        supervisor.reset(PROBE)
    assert heard(supervisor) == paths
