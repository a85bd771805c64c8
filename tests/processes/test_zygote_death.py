"""The zygote dies, or does not answer: templates and workers go on, and the next template has a new one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from conftest import PluginFolder, is_alive, wait_until
from faults import templates_of, workers_of
from hosts import Host
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import CallTimeout, SetupError, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Calls, Config, Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Launcher, fork_server
from zygotes import zygotes_run

PROBE, OTHER = "test.probe", "test.other"
EMPTY_MODULE = b"\0asm\1\0\0\0"


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add(PROBE)
    plugins.add(OTHER)
    return supervise(config=Config(calls=Calls(shutdown_timeout=1.0)))


def zygotes() -> list[int]:
    return [child.pid for child in psutil.Process().children() if is_alive(child)]


def kill_zygote() -> int:
    (pid,) = zygotes()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "the zygote to be reaped")
    return pid


def workers(supervisor: Supervisor) -> list[int]:
    return workers_of(supervisor, tuple(supervisor.plugins))


def everybody(supervisor: Supervisor) -> list[int]:
    """Templates and workers."""
    return workers(supervisor) + templates_of(supervisor, tuple(supervisor.plugins))


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


def test_restarts_need_no_zygote(supervisor: Supervisor) -> None:
    kill_zygote()
    for _ in range(2):
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv")
        assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert zygotes() == []


def test_the_next_template_has_a_new_zygote(supervisor: Supervisor, plugins: PluginFolder) -> None:
    old = kill_zygote()
    plugins.add("test.late")
    supervisor.load_plugin(plugins.path / "test.late" / "plugin.wasm")
    (new,) = zygotes()
    assert new != old
    assert supervisor.call("test.late", "echo", b"x") == b"x"
    assert supervisor.call(OTHER, "echo", b"x") == b"x"


def test_a_start_right_after_the_zygote_died_works(supervisor: Supervisor, plugins: PluginFolder) -> None:
    """Before anyone has noticed: the request goes to the dead zygote first."""
    for number in range(5):
        (pid,) = zygotes()
        plugins.add(f"test.n{number}")
        os.kill(pid, signal.SIGKILL)
        plugin = supervisor.load_plugin(plugins.path / f"test.n{number}" / "plugin.wasm")
        assert supervisor.call(plugin.id, "echo", b"x") == b"x"


def test_a_worker_that_dies_after_its_zygote_is_noticed_and_replaced_without_a_call(supervisor: Supervisor) -> None:
    kill_zygote()
    plugin = supervisor.plugins[PROBE]
    (pid,) = plugin.status.worker_pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: plugin.status.state == "ready" and plugin.status.worker_pids != (pid,))
    assert plugin.status.last_failure is not None
    assert plugin.status.last_failure.startswith("killed by SIGKILL while idle (peak ")  # its template counts
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_worker_without_a_zygote_that_dies_in_a_call_is_a_crash_with_its_signal(supervisor: Supervisor) -> None:
    kill_zygote()
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.command(PROBE, "segv")
    assert caught.value.signal == signal.SIGSEGV


@pytest.mark.parametrize("end", ["still a zombie", "reaped by us", "reaped by another"])
def test_the_kernel_tells_the_end_of_a_process_whose_parent_is_dead(host: Callable[[str], Host], end: str) -> None:
    supervisor = host(f"""
        import ctypes, select
        from isoplug.supervisor.pool import kernel
        def become_subreaper():
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        def fork_and_die():
            if not os.fork():
                os.write(told, b"%d" % os.getpid())
                os.read(go, 1)
                os._exit(7)
            os._exit(0)
        def adopt():
            become_subreaper()
            parent = os.fork()
            if not parent:
                fork_and_die()
            os.waitpid(parent, 0)
        pids, told = os.pipe()
        go, leave = os.pipe()
        adopter = os.getpid()
        if {end!r} == "reaped by us":
            adopt()
        else:
            adopter = os.fork()
            if not adopter:
                adopt()
                if {end!r} == "reaped by another":
                    os.wait()
                signal.pause()
        child = int(os.read(pids, 20))
        pidfd = os.pidfd_open(child)
        wait_until(lambda: psutil.Process(child).ppid() == adopter)
        os.write(leave, b"x")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        if {end!r} == "reaped by another":
            wait_until(lambda: not psutil.pid_exists(child))
        seen = kernel.wait_status(child, pidfd), psutil.pid_exists(child)
        if adopter != os.getpid():
            os.kill(adopter, signal.SIGKILL)
            os.waitpid(adopter, 0)
        say(*seen)  # last: who hears it ends this process
    """)
    status, is_left = supervisor.read()
    if end == "reaped by another" and status == "None":
        pytest.skip("this kernel (before 6.15) forgets a status that another process has taken")
    assert int(status) == 7 << 8
    assert is_left == str(end == "still a zombie")


def test_closing_after_the_zygote_died_still_ends_everybody_and_removes_the_folder(
    supervisor: Supervisor, runtime_base: Path
) -> None:
    kill_zygote()
    pids = everybody(supervisor)
    assert list(runtime_base.iterdir())
    supervisor.close()
    assert [each for each in pids if not is_gone(each)] == []
    assert list(runtime_base.iterdir()) == []


def test_templates_of_the_old_and_the_new_zygote_are_all_ended_by_closing(
    supervisor: Supervisor, plugins: PluginFolder
) -> None:
    kill_zygote()
    plugins.add("test.late")
    supervisor.load_plugin(plugins.path / "test.late" / "plugin.wasm")
    pids = everybody(supervisor)
    assert len(pids) == 6
    supervisor.close()
    assert [each for each in pids if not is_gone(each)] == []


def test_a_start_that_a_stopped_zygote_does_not_answer_fails_at_its_deadline_and_delays_no_call(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_SILENCE_SECONDS", 60.0)
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(start_timeout=6.0, shutdown_timeout=0.5)))
    (pid,) = zygotes()
    os.kill(pid, signal.SIGSTOP)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    plugins.add(OTHER)
    with pytest.raises(CallTimeout):
        supervisor.load_plugin(plugins.path / OTHER / "plugin.wasm")
    os.kill(pid, signal.SIGCONT)  # it answers the old request now; that template is unwanted
    assert supervisor.load_plugin(plugins.path / OTHER / "plugin.wasm").id == OTHER
    assert zygotes() == [pid]
    wait_until(lambda: len(psutil.Process(pid).children()) == 2, "the unwanted template to be ended")


def test_a_stopped_zygote_is_replaced_within_the_deadline_of_a_start_and_its_workers_go_on(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_SILENCE_SECONDS", 1.0)
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(start_timeout=30.0)))
    assert supervisor.command(PROBE, "count") == 1
    (stopped,) = zygotes()
    os.kill(stopped, signal.SIGSTOP)
    for number in range(3):
        plugins.add(f"test.n{number}")
    with ThreadPoolExecutor(3) as threads:  # each of them waits, and none of them may have the new one killed as well
        list(threads.map(lambda n: supervisor.load_plugin(plugins.path / f"test.n{n}" / "plugin.wasm"), range(3)))
    (new,) = zygotes()
    assert new != stopped
    assert supervisor.command(PROBE, "count") == 2
    wait_until(lambda: len(psutil.Process(new).children()) == 3)


def test_short_waits_add_up_until_a_stopped_zygote_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No single start waits long enough to be sure."""
    monkeypatch.setattr(fork_server, "_SILENCE_SECONDS", 1.0)
    launcher = Launcher(tmp_path, Lockdown.OFF, [], [])

    def outcome_of(seconds: float) -> type[Exception] | None:
        template = launcher.template("a", lambda: EMPTY_MODULE, Limits())
        try:
            launcher.launch(template, Deadline.after(seconds)).end()
        except (CallTimeout, SetupError) as error:
            return type(error)
        finally:
            template.close()
        return None

    try:
        assert outcome_of(20.0) is None
        (stopped,) = zygotes()
        os.kill(stopped, signal.SIGSTOP)
        outcomes = [outcome_of(0.1) for _ in range(12)]
        assert outcomes[0] is CallTimeout
        assert outcome_of(20.0) is None
        assert stopped not in zygotes()
    finally:
        launcher.close()


def test_a_death_in_a_call_is_told_with_its_signal_while_the_zygote_is_stopped(supervisor: Supervisor) -> None:
    (stopped,) = zygotes()
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.command(PROBE, "segv")
    assert caught.value.signal == signal.SIGSEGV  # it is a zombie, and its status public
    os.kill(stopped, signal.SIGCONT)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_zygote_that_dies_between_a_fork_and_its_report_leaves_no_template_that_waits_for_ever(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The start goes on with another zygote."""
    once = tmp_path / "once"
    dies = f"""
import isoplug.worker.zygote as module, os, signal, socket
zygote = os.getpid()
def die(*_):
    if os.getpid() != zygote or os.path.exists({str(once)!r}):
        return send(*_)
    (child,) = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
    open({str(once)!r}, "w").write(child)
    os.kill(os.getpid(), signal.SIGKILL)
send, module.socket.send_fds = socket.send_fds, die
"""
    zygotes_run(monkeypatch, dies)
    plugins.add(PROBE)
    supervisor = supervise()
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    unknown = int(once.read_text())
    (worker,) = supervisor.plugins[PROBE].status.worker_pids
    assert psutil.Process(worker).ppid() != unknown
    wait_until(lambda: is_gone(unknown), "the template that nobody knows to end")


def test_closing_ends_a_stopped_zygote_and_everybody_else(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], runtime_base: Path
) -> None:
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(shutdown_timeout=0.5)))
    pids = everybody(supervisor)
    (pid,) = zygotes()
    os.kill(pid, signal.SIGSTOP)
    supervisor.close()
    assert is_gone(pid)
    assert [each for each in pids if not is_gone(each)] == []
    assert list(runtime_base.iterdir()) == []
