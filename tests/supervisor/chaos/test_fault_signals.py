"""Whom faults send signals to: workers and what they were forked from, and never the host."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from conftest import PluginFolder, wait_until
from faults import templates, zygotes
from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor import Supervisor, WorkerCrashed
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.faults.signals import Parent, end_by, template_of, zygote_of
from isoplug.supervisor.pool import Worker

PROBE = "test.probe"


class WithWorker:
    """An interceptor that does something with the worker before the call is sent."""

    def __init__(self) -> None:
        self.act: Callable[[Worker], object] = lambda _: None

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        if delivery.is_lent:
            self.act(delivery.worker)
        return proceed(delivery)


@pytest.fixture
def seam() -> WithWorker:
    return WithWorker()


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor], seam: WithWorker) -> Supervisor:
    plugins.add(PROBE)
    return supervise(interceptors=[seam])


def parents_of(worker: Worker) -> list[int | None]:
    found = []
    for parent in (template_of(worker), zygote_of(worker)):
        found.append(None if parent is None else parent.pid)
        if parent is not None:
            parent.close()
    return found


def test_the_processes_that_a_worker_comes_from_are_found(supervisor: Supervisor, seam: WithWorker) -> None:
    found: list[list[int | None]] = []
    seam.act = lambda worker: found.append(parents_of(worker))
    supervisor.call(PROBE, "echo")
    assert found == [[*templates(), *zygotes()]]


def test_a_worker_whose_template_has_died_has_none_and_its_zygote_is_found(
    supervisor: Supervisor, seam: WithWorker
) -> None:
    found: list[list[int | None]] = []

    def act(worker: Worker) -> None:
        template = template_of(worker)
        assert template is not None
        with template:
            template.kill()
        zygote = zygotes()[0]
        wait_until(lambda: psutil.Process(worker.pid).ppid() == zygote, "the zygote to adopt the worker")
        found.append(parents_of(worker))

    seam.act = act
    supervisor.call(PROBE, "echo")
    assert found == [[None, *zygotes()]]


def test_a_dead_worker_has_neither(supervisor: Supervisor, seam: WithWorker) -> None:
    found: list[list[int | None]] = []

    def act(worker: Worker) -> None:
        end_by(worker, signal.SIGSEGV)
        found.append(parents_of(worker))

    seam.act = act
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.call(PROBE, "echo")
    assert caught.value.signal == signal.SIGSEGV
    assert found == [[None, None]]


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid(), 1], ids=["itself", "its parent", "the first"])
def test_no_other_process_is_taken_for_one_of_ours(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        Parent(pid)
