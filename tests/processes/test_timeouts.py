"""A guest, or the process around it, does not come to an end: its caller does, at the deadline, and the next one is
served."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import CallTimeout, Outcome, Supervisor
from isoplug.supervisor.config import Calls, Config, Limits

PROBE = "test.probe"
#: Far above what any of this takes, far below the default timeout of 30 s.
SOON_SECONDS = 20.0
UNBOUNDED = Limits(host_calls_per_call=0, log_lines_per_second=0)


@contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_SECONDS


@pytest.mark.parametrize("command", ["spin", "spin_host", "log_flood"])
def test_a_command_without_end_times_out_and_the_next_call_works(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], command: str
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(limits=UNBOUNDED))
    before = supervisor.plugins[PROBE].status.worker_pids
    with soon():
        with pytest.raises(CallTimeout) as caught:
            supervisor.command(PROBE, command, timeout=0.5)
        assert supervisor.call(PROBE, "echo", b"next") == b"next"
    assert caught.value.timeout_seconds == 0.5
    assert caught.value.outcome is Outcome.NO_EFFECTS
    assert command in str(caught.value)
    assert supervisor.plugins[PROBE].status.worker_pids != before


def test_an_impatient_caller_does_not_cost_the_plugin_a_restart_of_its_budget(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    for _ in range(6):  # the intensity is 3
        with pytest.raises(CallTimeout):
            supervisor.command(PROBE, "spin", timeout=0.05)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_guest_that_overruns_the_configured_timeout_again_and_again_is_quarantined(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(restart={"max_restarts": 1, "backoff_initial": 0.01}), call_timeout=0.3)
    plugin = supervisor.plugins[PROBE]
    for _ in range(2):
        wait_until(lambda: plugin.status.state == "ready")
        with pytest.raises(CallTimeout):
            supervisor.command(PROBE, "spin")
    assert plugin.status.state == "quarantined"


def config(**sections: dict[str, object]) -> Config:
    return Config().model_validate(sections)


def test_a_nested_command_without_end_ends_both_at_the_deadline_of_the_chain(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.a")
    plugins.add("test.b")
    workspace.grant("test.a", execute_commands=["all"])
    supervisor = supervise()
    with soon():
        with pytest.raises(CallTimeout) as caught:
            supervisor.command("test.a", "call", {"plugin_id": "test.b", "command": "spin"}, timeout=0.5)
        assert caught.value.plugin_id == "test.a"
        assert supervisor.call("test.a", "echo", b"a") == b"a"
        assert supervisor.call("test.b", "echo", b"b") == b"b"


def test_a_stopped_worker_is_killed_at_the_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    os.kill(pid, signal.SIGSTOP)
    with soon():
        with pytest.raises(CallTimeout):
            supervisor.call(PROBE, "echo", b"x", timeout=0.5)
        assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_plugins_whose_start_spins_fail_to_load_and_the_others_run(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.init", config={"init": "spin"})
    plugins.add("test.config", config={"set_config": "spin"})
    plugins.add(variant="bad_manifest_spin", folder="manifest")
    plugins.add(variant="start_spin", folder="start")
    plugins.add("test.other")
    supervisor = supervise(config=Config(calls=Calls(start_timeout=5.0)))
    assert supervisor.call("test.other", "echo", b"x") == b"x"
    assert list(supervisor.plugins) == ["test.other"]
    assert set(supervisor.load_errors) == {"test.init", "test.config", "manifest", "start"}
    assert {type(error) for error in supervisor.load_errors.values()} == {CallTimeout}


def test_an_event_that_spins_is_set_aside_and_the_one_behind_it_is_delivered(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(call_timeout=2.0)
    with soon():
        supervisor.emit("file_saved", {"path": "spin"})
        supervisor.emit("file_saved", {"path": "after.md"})
        assert supervisor.flush_events(timeout=SOON_SECONDS)
    seen = [entry["input"].get("payload", {}).get("path") for entry in supervisor.command(PROBE, "events", timeout=5.0)]
    assert seen == [None, "after.md"]  # init of the new worker, then the second event


def test_a_call_that_waits_behind_another_may_be_retried_when_its_time_is_up(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(supervisor.command, PROBE, "busy", {"milliseconds": 3000})
        wait_until(lambda: plugin.status.state == "busy")
        pids = plugin.status.worker_pids
        with pytest.raises(CallTimeout) as caught:
            supervisor.call(PROBE, "echo", b"x", timeout=0.1)
        assert caught.value.retryable
        assert caught.value.outcome is Outcome.NOT_DELIVERED
        assert first.result() is None
    assert plugin.status.worker_pids == pids  # nothing happened to the worker


def test_a_call_whose_time_is_up_before_it_begins_costs_no_worker(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    for _ in range(5):
        with pytest.raises(CallTimeout) as caught:
            supervisor.call(PROBE, "echo", b"x", timeout=1e-9)
        assert caught.value.retryable
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert plugin.status.worker_pids == pids


def test_a_shutdown_that_spins_does_not_hold_up_closing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"shutdown": "spin"})
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=0.5)))
    with soon():
        supervisor.close()
