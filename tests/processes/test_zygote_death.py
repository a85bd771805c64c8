"""The zygote dies, or does not answer: workers go on, and the next start has a new one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conftest import PluginFolder, wait_until
from isoplug.supervisor import CallTimeout, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Calls, Config

PROBE, OTHER = "test.probe", "test.other"


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add(PROBE)
    plugins.add(OTHER)
    return supervise(config=Config(calls=Calls(shutdown_timeout=1.0)))


def zygotes() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def kill_zygote() -> int:
    (pid,) = zygotes()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "the zygote to be reaped")
    return pid


def workers(supervisor: Supervisor) -> list[int]:
    return [pid for plugin in supervisor.plugins.values() for pid in plugin.status.worker_pids]


def is_gone(pid: int) -> bool:
    """Also true of a zombie whose every thread has ended: this machine's init may be slow to reap."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


def test_workers_go_on_when_their_zygote_dies(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "count") == 1
    pids = workers(supervisor)
    kill_zygote()
    assert supervisor.command(PROBE, "count") == 2
    assert supervisor.call(OTHER, "echo", b"x") == b"x"
    assert workers(supervisor) == pids


def test_the_next_start_has_a_new_zygote(supervisor: Supervisor) -> None:
    old = kill_zygote()
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    (new,) = zygotes()
    assert new != old
    assert supervisor.call(OTHER, "echo", b"x") == b"x"


def test_a_start_right_after_the_zygote_died_works(supervisor: Supervisor, plugins: PluginFolder) -> None:
    """Before anyone has noticed: the request goes to the dead zygote first."""
    for number in range(5):
        (pid,) = zygotes()
        plugins.add(f"test.n{number}")
        os.kill(pid, signal.SIGKILL)
        plugin = supervisor.load_plugin(plugins.path / f"test.n{number}" / "plugin.wasm")
        assert supervisor.call(plugin.id, "echo", b"x") == b"x"


def test_a_worker_that_dies_after_its_zygote_is_noticed_at_the_next_call(supervisor: Supervisor) -> None:
    kill_zygote()
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid))
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert supervisor.plugins[PROBE].status.worker_pids != (pid,)


def test_a_worker_without_a_zygote_that_dies_in_a_call_is_a_crash(supervisor: Supervisor) -> None:
    kill_zygote()
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.command(PROBE, "segv")
    assert caught.value.signal is None  # nobody is left who could tell
    assert "unknown" in str(caught.value)


def test_closing_after_the_zygote_died_still_ends_the_workers_and_removes_the_folder(
    supervisor: Supervisor, runtime_base: Path
) -> None:
    kill_zygote()
    pids = workers(supervisor)
    assert list(runtime_base.iterdir())
    supervisor.close()
    assert [pid for pid in pids if not is_gone(pid)] == []
    assert list(runtime_base.iterdir()) == []


def test_workers_of_the_old_and_the_new_zygote_are_all_ended_by_closing(
    supervisor: Supervisor, plugins: PluginFolder
) -> None:
    kill_zygote()
    plugins.add("test.late")
    supervisor.load_plugin(plugins.path / "test.late" / "plugin.wasm")
    pids = workers(supervisor)
    assert len(pids) == 3
    supervisor.close()
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_a_stopped_zygote_delays_no_call_and_fails_a_start_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(start_timeout=1.5, shutdown_timeout=0.5)))
    (pid,) = zygotes()
    os.kill(pid, signal.SIGSTOP)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    plugins.add(OTHER)
    with pytest.raises(CallTimeout):
        supervisor.load_plugin(plugins.path / OTHER / "plugin.wasm")
    os.kill(pid, signal.SIGCONT)  # it answers the old request now; that worker is unwanted
    assert supervisor.load_plugin(plugins.path / OTHER / "plugin.wasm").id == OTHER
    wait_until(lambda: len(psutil.Process(pid).children()) == 2, "the unwanted worker to be ended")


def test_closing_ends_a_stopped_zygote_and_its_workers(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], runtime_base: Path
) -> None:
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=0.5)))
    pids = workers(supervisor)
    (pid,) = zygotes()
    os.kill(pid, signal.SIGSTOP)
    supervisor.close()
    assert is_gone(pid)
    assert [worker for worker in pids if not is_gone(worker)] == []
    assert list(runtime_base.iterdir()) == []
