"""For every reason that a worker can be gone for: which one the pool saw, and whether it spent the plugin's budget.

The budget is of no restart at all, so what counts quarantines the plugin at once. The rules in themselves are in
tests/supervisor/pool/test_restart_matrix.py.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, wait_until, wait_until_computing
from isoplug.supervisor import CallTimeout, GuestTrap, Plugin, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Calls, Config, Limits, Recycle, Restart
from isoplug.supervisor.pool import ExitReason
from zygotes import zygotes_run

PROBE = "test.probe"
MIB = 1 << 20
NONE = Restart(max_restarts=0)


#: Takes the place of the worker's own ``live``.
FAULTY = """
import isoplug.worker.main
from isoplug.shared.messages import *
from isoplug.worker.link import Link

MANIFEST = b'{"id": "test.probe", "name": "x", "version": "1", "description": "x", "capabilities": []}'

def live(cell, blueprint, courier, fields, lifeline_fd, link_fd):
    cell.move_in(lifeline_fd, link_fd)
    link = Link(link_fd, 1 << 25)
    link.send(Hello(PROTOCOL)); link.receive(); link.send(Loaded())
    while True:
        message = link.receive()
        if message.export == "manifest":
            link.send(Returned(message.call, MANIFEST))
        elif message.export == "grow":
            bytearray(1 << 30)
        elif message.export == "lie":
            link.send(Returned(message.call + 1, b""))
        else:
            link.send(Failed(message.call, "missing", ""))

isoplug.worker.main.live = live
"""


@pytest.fixture
def wasm(plugins: PluginFolder) -> Path:
    return plugins.add(PROBE)


@pytest.fixture
def strict(wasm: Path, supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    def start(**sections: Any) -> Supervisor:
        return supervise(config=Config(restart=NONE, **sections))

    return start


def saw(caplog: pytest.LogCaptureFixture, reason: ExitReason, event: str = "worker.lost") -> bool:
    return any(
        event in record.getMessage() and f"reason={reason.value}" in record.getMessage() for record in caplog.records
    )


def served_on(supervisor: Supervisor) -> bool:
    return supervisor.call(PROBE, "echo", b"x") == b"x" and supervisor.plugins[PROBE].status.state == "ready"


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """This process gets none but those that it gives back."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def quarantined(plugin: Plugin) -> bool:
    return wait_until(lambda: plugin.status.state == "quarantined")


def test_a_crash_counts(strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture) -> None:
    supervisor = strict()
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert saw(caplog, ExitReason.CRASH)
    assert quarantined(supervisor.plugins[PROBE])


def test_an_idle_death_counts(strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture) -> None:
    supervisor = strict()
    os.kill(supervisor.plugins[PROBE].status.worker_pids[0], signal.SIGKILL)
    assert quarantined(supervisor.plugins[PROBE])
    assert saw(caplog, ExitReason.CRASH)


@pytest.mark.parametrize(("fault", "reason"), [("grow", ExitReason.OUT_OF_MEMORY), ("lie", ExitReason.BREACH)])
def test_what_a_worker_does_to_itself_counts(
    strict: Callable[..., Supervisor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    reason: ExitReason,
) -> None:
    zygotes_run(monkeypatch, FAULTY)
    supervisor = strict(limits=Limits(process_memory=100 * MIB, wasm_memory=16 * MIB))
    with pytest.raises(WorkerCrashed):
        supervisor.call(PROBE, fault)
    assert saw(caplog, reason)
    assert quarantined(supervisor.plugins[PROBE])


def test_overrunning_the_default_timeout_counts(
    strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict(calls=Calls(timeout=0.5))
    with pytest.raises(CallTimeout):
        supervisor.command(PROBE, "spin")
    assert saw(caplog, ExitReason.OVERRUN)
    assert quarantined(supervisor.plugins[PROBE])


def test_overrunning_a_shorter_one_does_not(
    strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict()
    with pytest.raises(CallTimeout):
        supervisor.command(PROBE, "spin", timeout=0.3)
    assert saw(caplog, ExitReason.SHORT_DEADLINE)
    assert served_on(supervisor)


def test_a_trap_does_not(strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture) -> None:
    supervisor = strict()
    with pytest.raises(GuestTrap):
        supervisor.command(PROBE, "trap")
    assert saw(caplog, ExitReason.TRAP)
    assert served_on(supervisor)


def test_an_interrupt_of_the_caller_does_not(
    strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict()
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until_computing(supervisor.plugins[PROBE])
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            supervisor.command(PROBE, "spin")
        interrupting.result()
    assert saw(caplog, ExitReason.CANCELLED)
    assert served_on(supervisor)


def test_recycling_does_not(strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    supervisor = strict(recycle=Recycle(calls=1))
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    supervisor.call(PROBE, "echo", b"x")
    wait_until(lambda: pid not in supervisor.plugins[PROBE].status.worker_pids)
    assert any("worker.recycled" in record.getMessage() for record in caplog.records)
    assert served_on(supervisor)
    assert not any("worker.lost" in record.getMessage() for record in caplog.records)


def test_being_stopped_is_no_loss(
    strict: Callable[..., Supervisor], wasm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict()
    supervisor.unload(PROBE)
    supervisor.load_plugin(wasm)
    assert not any("worker.lost" in record.getMessage() for record in caplog.records)
    assert served_on(supervisor)


def test_a_start_that_fails_counts(
    wasm: Path, strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict()
    wasm.with_name("config.json").write_text('{"init": "trap"}')
    with pytest.raises(GuestTrap):
        supervisor.command(PROBE, "trap")
    assert quarantined(supervisor.plugins[PROBE])
    assert saw(caplog, ExitReason.START_FAILED, "worker.start_failed")


def test_a_start_that_the_machine_refuses_does_not_and_is_tried_again_until_it_works(
    strict: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = strict()
    plugin = supervisor.plugins[PROBE]
    with no_more_descriptors():
        with pytest.raises(GuestTrap):
            supervisor.command(PROBE, "trap")
        wait_until(lambda: saw(caplog, ExitReason.MACHINE, "worker.start_failed"))
        wait_until(lambda: plugin.status.state == "backing_off")
        with pytest.raises(CallTimeout):
            supervisor.call(PROBE, "echo", b"x", timeout=0.2)
    assert served_on(supervisor)
