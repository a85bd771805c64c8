"""The process that compiles a module and forks its workers dies, stops, or takes for ever: its workers go on, whoever
waits hears by the deadline, and the next start has another one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import wasmtime

from conftest import PluginFolder, wait_until
from faults import templates, templates_of, zygotes
from invariants import descriptors, wait_until_tidy
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import CallTimeout, Supervisor, SupervisorClosed, WorkerCrashed
from isoplug.supervisor.config import Config, Limits, Restart
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Launcher, fork_server
from isoplug.supervisor.pool.template import Template
from zygotes import zygotes_run

PROBE = "test.probe"
QUICK = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)
EMPTY = b"\0asm\1\0\0\0"


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A module that takes a second to compile, and on any machine far longer than the deadlines below."""
    body = "(local.set 0 (i64.add (local.get 0) (i64.mul (local.get 0) (i64.const 12345)))) " * 200
    functions = "".join(f'(func (export "f{n}") (param i64) (result i64) {body} (local.get 0))' for n in range(3000))
    return bytes(wasmtime.wat2wasm(f"(module {functions})"))


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path, Lockdown.BEST_EFFORT, [], [])
    yield launcher
    launcher.close()


@pytest.fixture
def of(launcher: Launcher) -> Iterator[Callable[[bytes], Template]]:
    made: list[Template] = []

    def template(wasm: bytes) -> Template:
        made.append(launcher.template("a", lambda: wasm, Limits()))
        return made[-1]

    yield template
    for one in made:
        one.close()


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add(PROBE)
    return supervise(config=Config(restart=QUICK))


def starts(launcher: Launcher, template: Template, seconds: float = 60.0) -> None:
    """It starts a worker, and that is ended."""
    worker = launcher.launch(template, Deadline.after(seconds))
    assert worker.end(grace_seconds=10.0).exit_code == 0


def compiling() -> int:
    """The pid of the only template, which has not compiled yet."""
    (pid,) = wait_until(templates)
    wait_until(lambda: sum(psutil.Process(pid).cpu_times()[:2]) > 0.1)
    return int(pid)


# --- after it has compiled --------------------------------------------------------------------------------------------


def test_workers_go_on_when_their_template_dies_and_the_next_start_has_another(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "count") == 1
    (old,) = templates_of(supervisor, [PROBE])
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(old))
    assert supervisor.command(PROBE, "count") == 2
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.command(PROBE, "count") == 1
    (new,) = templates_of(supervisor, [PROBE])
    assert new != old
    wait_until_tidy(supervisor)


def test_a_worker_whose_template_is_dead_dies_in_a_call_with_its_signal(supervisor: Supervisor) -> None:
    (pid,) = templates_of(supervisor, [PROBE])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid))
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.command(PROBE, "segv")
    assert caught.value.signal == signal.SIGSEGV


def test_a_start_right_after_its_template_died_works(launcher: Launcher, of: Callable[[bytes], Template]) -> None:
    """Before anyone has noticed: the request goes to the dead one first."""
    template = of(EMPTY)
    for _ in range(20):
        starts(launcher, template)
        (pid,) = wait_until(lambda: len(found := templates()) == 1 and found)  # the zygote has reaped the one before
        os.kill(pid, signal.SIGKILL)


def test_a_stopped_template_is_replaced_within_the_deadline_of_a_start_and_its_workers_go_on(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_SILENCE_SECONDS", 1.0)
    plugin = supervisor.plugins[PROBE]
    (old,) = templates_of(supervisor, [PROBE])
    os.kill(old, signal.SIGSTOP)
    assert supervisor.command(PROBE, "count") == 1
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.command(PROBE, "count", timeout=30.0) == 1
    assert templates_of(supervisor, [PROBE]) != [old]
    assert plugin.status.state == "ready"


def test_a_template_that_dies_between_a_fork_and_its_report_leaves_no_worker_that_waits_for_ever(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = """
import isoplug.worker.forking as module, mmap, os
zygote, flag = os.getpid(), mmap.mmap(-1, 1)
def die(*words):
    if os.getpid() != zygote and not flag[0]:
        flag[0] = 1
        os._exit(9)
    return send(*words)
send, module.socket.send_fds = module.socket.send_fds, die
"""
    zygotes_run(monkeypatch, dies)
    plugins.add(PROBE)
    supervisor = supervise()
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wait_until_tidy(supervisor)


def test_descriptors_are_as_many_after_a_hundred_restarts(launcher: Launcher, of: Callable[[bytes], Template]) -> None:
    template = of(EMPTY)
    starts(launcher, template)
    (pid,) = zygotes()
    here, there, threads = descriptors(), psutil.Process(pid).num_fds(), threading.active_count()
    for number in range(100):
        starts(launcher, template)
        if number % 10 == 0:
            os.kill(templates()[0], signal.SIGKILL)
    starts(launcher, template)
    wait_until(
        lambda: (descriptors(), psutil.Process(pid).num_fds(), threading.active_count()) == (here, there, threads)
    )


# --- while it compiles ------------------------------------------------------------------------------------------------


def test_launches_at_once_share_one_template(launcher: Launcher, of: Callable[[bytes], Template], slow: bytes) -> None:
    template = of(slow)
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(starts, launcher, template) for _ in range(4)]
        seen = {compiling()}
        while not all(start.done() for start in running):
            seen |= set(templates())
        for start in running:
            start.result()
    assert len(seen) == 1


def test_one_that_is_killed_while_it_compiles_fails_that_start(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes
) -> None:
    template = of(slow)
    with ThreadPoolExecutor(1) as threads:
        start = threads.submit(starts, launcher, template)
        os.kill(compiling(), signal.SIGKILL)
        error = start.exception()
    assert isinstance(error, WorkerCrashed)
    assert "killed by SIGKILL while it was compiled" in str(error)
    starts(launcher, template)


def test_whoever_waits_last_ends_a_compilation_at_the_deadline(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes
) -> None:
    template = of(slow)
    starts(launcher, of(EMPTY))  # the zygote is there
    with ThreadPoolExecutor(1) as threads:
        start = threads.submit(starts, launcher, template, 0.15)
        assert isinstance(start.exception(), CallTimeout)
    wait_until(lambda: len(templates()) == 1)
    starts(launcher, template)


def test_a_deadline_that_passes_while_it_compiles_ends_nothing_for_those_who_have_more_time(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes
) -> None:
    template = of(slow)
    with ThreadPoolExecutor(2) as threads:
        patient = threads.submit(starts, launcher, template)
        pid = compiling()
        hasty = threads.submit(starts, launcher, template, 0.1)
        assert isinstance(hasty.exception(), CallTimeout)
        patient.result()
    assert templates() == [pid]


def test_one_that_is_stopped_while_it_compiles_costs_that_start_its_time(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes
) -> None:
    template = of(slow)
    with ThreadPoolExecutor(1) as threads:
        start = threads.submit(starts, launcher, template, 6.0)
        os.kill(compiling(), signal.SIGSTOP)
        assert isinstance(start.exception(), CallTimeout)
    starts(launcher, template)


@pytest.mark.parametrize("what", ["template", "launcher"])
def test_closing_while_it_compiles_is_told_to_whoever_waits(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes, what: str
) -> None:
    template = of(slow)
    with ThreadPoolExecutor(1) as threads:
        start = threads.submit(starts, launcher, template)
        pid = compiling()
        {"template": template, "launcher": launcher}[what].close()
        assert isinstance(start.exception(), SupervisorClosed)
    wait_until(lambda: not psutil.pid_exists(pid))


def test_an_interrupt_of_whoever_waits_ends_the_compilation(
    launcher: Launcher, of: Callable[[bytes], Template], slow: bytes
) -> None:
    template, main = of(slow), threading.get_ident()

    def interrupt() -> int:
        pid = compiling()
        signal.pthread_kill(main, signal.SIGINT)
        return pid

    with ThreadPoolExecutor(1) as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            starts(launcher, template)
        pid = interrupting.result()
    wait_until(lambda: not psutil.pid_exists(pid))
    starts(launcher, template)
