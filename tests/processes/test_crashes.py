"""A worker dies, and what its caller and everybody else see of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import PluginFolder, wait_until
from isoplug.supervisor import Outcome, Supervisor, WorkerCrashed

PROBE = "test.probe"


def kill_during(supervisor: Supervisor, plugin_id: str, command: str = "spin") -> WorkerCrashed:
    """Kill the plugin's worker while ``command`` runs; the error its caller gets."""
    plugin = supervisor.plugins[plugin_id]
    idle = plugin.status
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, plugin_id, command)
        wait_until(lambda: plugin.status.cpu_seconds > idle.cpu_seconds + 0.05, "the guest to spin")
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        error = call.exception()
    assert isinstance(error, WorkerCrashed)
    return error


def test_a_worker_killed_mid_call_fails_that_call_and_names_the_signal(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    error = kill_during(supervisor, PROBE)
    assert error.signal == signal.SIGKILL
    assert "SIGKILL" in str(error)
    assert error.outcome is Outcome.NO_EFFECTS
    assert error.retryable
    assert supervisor.call(PROBE, "echo", b"again") == b"again"


def test_other_plugins_notice_nothing_of_a_crash(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    plugins.add("test.other")
    supervisor = supervise()
    (pid,) = supervisor.plugins["test.other"].status.worker_pids
    assert supervisor.command("test.other", "count") == 1
    kill_during(supervisor, PROBE)
    assert supervisor.command("test.other", "count") == 2
    assert supervisor.plugins["test.other"].status.worker_pids == (pid,)
    assert supervisor.plugins["test.other"].status.restarts == 0


def test_a_guest_that_segfaults_the_wasm_runtime_is_a_crash_of_its_worker_only(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.command(PROBE, "segv")
    assert caught.value.signal == signal.SIGSEGV
    assert supervisor.call(PROBE, "echo", b"alive") == b"alive"


def test_an_idle_worker_that_is_killed_is_replaced_before_anyone_asks(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    (pid,) = plugin.status.worker_pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: plugin.status.state == "ready" and plugin.status.worker_pids != (pid,))
    assert "SIGKILL" in (plugin.status.last_failure or "")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
