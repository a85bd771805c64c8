"""A worker that is stopped (SIGSTOP) never answers and never ends: whoever waits hears at the deadline, and it is
replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from conftest import PluginFolder, is_alive, wait_until, wait_until_computing
from faults import workers
from isoplug.supervisor import CallTimeout, Supervisor
from isoplug.supervisor.config import Calls, Config

PROBE = "test.probe"


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add()
    return supervise(config=Config(calls=Calls(start_timeout=3.0, shutdown_timeout=0.5)))


def test_a_worker_that_is_stopped_while_idle_costs_one_call_its_time(supervisor: Supervisor) -> None:
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    stop(pid)
    with pytest.raises(CallTimeout):
        supervisor.call(PROBE, "echo", b"x", timeout=0.5)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_worker_that_is_stopped_in_a_call_ends_with_it(supervisor: Supervisor) -> None:
    plugin = supervisor.plugins[PROBE]
    (pid,) = plugin.status.worker_pids
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin", timeout=2.0)
        wait_until_computing(plugin)
        stop(pid)
        assert isinstance(call.exception(), CallTimeout)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_worker_that_is_stopped_while_it_starts_fails_that_start_at_its_deadline(
    supervisor: Supervisor, plugins: PluginFolder
) -> None:
    (other,) = supervisor.plugins[PROBE].status.worker_pids
    plugins.add("test.late", config={"init": "spin"})
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(supervisor.load_plugin, plugins.path / "test.late" / "plugin.wasm")
        (pid,) = wait_until(lambda: [pid for pid in workers() if pid != other])
        stop(pid)
        assert isinstance(loading.exception(), CallTimeout)
    wait_until(lambda: not psutil.pid_exists(pid))
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_closing_ends_a_worker_that_is_stopped(supervisor: Supervisor) -> None:
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    stop(pid)
    worker = psutil.Process(pid)
    supervisor.close()
    assert not is_alive(worker)
