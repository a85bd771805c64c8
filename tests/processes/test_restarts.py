"""A worker dies at every point of its life; it comes back, later and later, until it is quarantined."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import PluginFolder, wait_until, wait_until_computing
from faults import workers
from isoplug.supervisor import (
    CallTimeout,
    GuestTrap,
    PluginError,
    PluginQuarantined,
    Supervisor,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.supervisor.config import Calls, Config, Limits, Restart
from isoplug.supervisor.plugins.table import Plugin

PROBE = "test.probe"
QUICK = Restart(max_restarts=2, backoff_initial=0.01, backoff_max=0.02, backoff_jitter=0.0)
#: A second failure backs off for longer than any test runs.
NEVER = Restart(max_restarts=5, backoff_initial=600.0, backoff_max=600.0, backoff_jitter=0.0)


def kill_worker(plugin: Plugin) -> None:
    """Kill the worker while it is idle, and wait until that was noticed."""
    (pid,) = wait_until(lambda: plugin.status.state == "ready" and plugin.status.worker_pids)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: plugin.status.worker_pids != (pid,))


@pytest.mark.parametrize("command", ["spin", "spin_host", "log_flood"])
def test_a_worker_killed_during_a_call_or_a_host_call_is_a_crash_of_that_call(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], command: str
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(limits=Limits(host_calls_per_call=0, log_lines_per_second=0)))
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, command)
        wait_until(lambda: plugin.status.state == "busy" and plugin.status.cpu_seconds > 0.3)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        error = call.exception()
    assert isinstance(error, WorkerCrashed)
    assert (error.signal, error.exit_code) == (signal.SIGKILL, None)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT, signal.SIGALRM])
def test_the_error_names_the_signal(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], number: signal.Signals
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        os.kill(plugin.status.worker_pids[0], number)
        error = call.exception()
    assert isinstance(error, WorkerCrashed)
    assert error.signal == number
    assert number.name in str(error)


@pytest.mark.parametrize("export", ["set_config", "init"])
def test_a_worker_killed_while_it_is_prepared_fails_that_load_only(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], export: str
) -> None:
    plugins.add("test.other")
    supervisor = supervise()
    others = supervisor.plugins["test.other"].status.worker_pids
    plugins.add(PROBE, config={export: "spin"})
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(supervisor.load_plugin, plugins.path / PROBE / "plugin.wasm")
        plugin = wait_until(lambda: supervisor.plugins.get(PROBE))
        (pid,) = wait_until(lambda: [pid for pid in workers() if pid not in others])
        assert plugin.status.state == "starting"
        os.kill(pid, signal.SIGKILL)
        assert isinstance(loading.exception(), WorkerCrashed)
    assert PROBE not in supervisor.plugins
    assert supervisor.call("test.other", "echo", b"x") == b"x"


def test_whoever_waits_for_a_plugin_that_fails_to_start_hears_so(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    supervisor = supervise(config=Config(calls=Calls(start_timeout=6.0)))
    plugins.add(PROBE, config={"init": "spin"})
    with ThreadPoolExecutor(2) as threads:
        loading = threads.submit(supervisor.load_plugin, plugins.path / PROBE / "plugin.wasm")
        wait_until(lambda: PROBE in supervisor.plugins)
        waiting = threads.submit(supervisor.call, PROBE, "echo", b"x")
        assert isinstance(loading.exception(), CallTimeout)
        assert isinstance(waiting.exception(), PluginError)


def test_a_config_that_traps_init_does_not_disturb_others(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.traps", config={"init": "trap"})
    plugins.add("test.segv", variant="probe_init_trap")
    plugins.add("test.other")
    supervisor = supervise()
    assert {name: type(error) for name, error in supervisor.load_errors.items()} == {
        "test.traps": GuestTrap,
        "test.segv": GuestTrap,
    }
    assert supervisor.call("test.other", "echo", b"x") == b"x"


def test_a_plugin_that_traps_at_every_restart_is_quarantined_and_no_other(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    supervisor = supervise(config=Config(restart=QUICK))
    wasm.with_name("config.json").write_text('{"init": "trap"}')
    kill_worker(supervisor.plugins[PROBE])
    wait_until(lambda: supervisor.plugins[PROBE].status.state == "quarantined")
    assert "trapped" in (supervisor.plugins[PROBE].status.last_failure or "")
    assert supervisor.call("test.other", "echo", b"x") == b"x"
    wasm.with_name("config.json").unlink()
    supervisor.reset(PROBE)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_crash_loop_is_quarantined_at_once_until_it_is_reset(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=QUICK))
    plugin = supervisor.plugins[PROBE]
    for number in range(QUICK.max_restarts + 1):  # another input each time: one alone is set aside
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv", number)
    assert plugin.status.state == "quarantined"
    for _ in range(100):
        with pytest.raises(PluginQuarantined) as caught:
            supervisor.call(PROBE, "echo", b"x")
    assert "SIGSEGV" in caught.value.last_failure
    wait_until(lambda: workers() == [])
    supervisor.reset(PROBE)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"  # the record is clean again


def test_callers_in_the_queue_hear_of_a_quarantine_at_once(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=Restart(max_restarts=0)))
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        queue = [threads.submit(supervisor.call, PROBE, "echo", b"x") for _ in range(4)]
        wait_until(lambda: plugin.status.calls == 5)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        assert isinstance(first.exception(), WorkerCrashed)
        assert {type(call.exception()) for call in queue} == {PluginQuarantined}


def test_the_second_restart_backs_off_and_a_call_waits_for_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    restart = Restart(max_restarts=5, backoff_initial=2.0, backoff_max=2.0, backoff_jitter=0.0)
    supervisor = supervise(config=Config(restart=restart))
    plugin = supervisor.plugins[PROBE]
    kill_worker(plugin)
    wait_until(lambda: plugin.status.state == "ready")
    started = time.monotonic()
    kill_worker(plugin)
    assert plugin.status.state == "backing_off"
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert time.monotonic() - started >= 2.0
    assert plugin.status.restarts == 2


def test_a_call_made_while_backing_off_times_out_and_may_be_retried(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=NEVER))
    plugin = supervisor.plugins[PROBE]
    kill_worker(plugin)
    kill_worker(plugin)
    with pytest.raises(CallTimeout) as caught:
        supervisor.call(PROBE, "echo", b"x", timeout=0.1)
    assert caught.value.retryable
    assert plugin.status.state == "backing_off"
    supervisor.reset(PROBE)  # ends the back-off
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_closing_does_not_wait_for_a_back_off_and_callers_hear_of_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=NEVER, calls=Calls(shutdown_timeout=0.2)))
    plugin = supervisor.plugins[PROBE]
    kill_worker(plugin)
    kill_worker(plugin)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(supervisor.call, PROBE, "echo", b"x")
        wait_until(lambda: plugin.status.calls == 1)
        supervisor.close()
        assert isinstance(waiting.exception(), SupervisorClosed)


def test_a_worker_killed_while_it_says_goodbye_does_not_hold_up_closing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"shutdown": "spin"})
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=60.0)))
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    closing = threading.Thread(target=supervisor.close)
    closing.start()
    wait_until(lambda: supervisor.plugins[PROBE].status.state == "stopped")
    time.sleep(0.05)  # most of the time it is in ``shutdown`` by now; earlier must work as well
    os.kill(pid, signal.SIGKILL)
    closing.join(20.0)
    assert not closing.is_alive()


def test_a_restarted_worker_gets_its_configuration_and_init_before_any_call(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    kill_worker(supervisor.plugins[PROBE])
    life = supervisor.command(PROBE, "events")
    assert [entry["export"] for entry in life] == ["set_config", "init"]
    assert life[0]["input"] == {"colour": "blue"}


def test_events_survive_a_restart_and_the_one_that_killed_the_worker_is_not_replayed(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    for path in ("trap", "a.md", "trap", "b.md"):
        supervisor.emit("file_saved", {"path": path})
    assert supervisor.flush_events(timeout=60.0)
    life = supervisor.command(PROBE, "events")
    assert [entry["input"]["payload"]["path"] for entry in life if entry["export"] == "on_event"] == ["b.md"]
