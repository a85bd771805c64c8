"""Signals to processes, as somebody outside of isoplug sends them: nothing of the supervisor is told."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from isoplug.supervisor.chaos.faults.scarcity import needing_descriptors
from isoplug.supervisor.pool import Worker

__all__ = ["Parent", "end_by", "send", "template_of", "zygote_of"]

#: A process that is to die takes a millisecond; a busy machine may take longer.
_DYING_SECONDS = 10.0
#: How long one signal is waited for before it is sent again. The handlers of a WebAssembly runtime take the first one
#: for a fault of its code, see that it is none, and go back to what the process would do without them.
_AGAIN_SECONDS = 0.01

_MODULE = b"isoplug.worker.zygote"


def send(worker: Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        signal.pidfd_send_signal(worker.process.pidfd, number)


def end_by(worker: Worker, number: signal.Signals) -> None:
    """Send a signal that it dies of, and wait until it has: what comes afterwards is the same in each run."""
    give_up_at = time.monotonic() + _DYING_SECONDS
    while time.monotonic() < give_up_at:
        send(worker, number)
        send(worker, signal.SIGCONT)
        if worker.process.wait(_AGAIN_SECONDS):
            return


class Parent:
    """A process that workers or templates are forked from, held by a pidfd until ``close``. A context manager."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when ``pid`` is no such process of isoplug's."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        if not _is_ours(pid):  # looked at when it is held, so it is about this process and no later one of that number
            os.close(self._pidfd)
            raise ProcessLookupError(f"process {pid} is none that workers are forked from")

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """By SIGKILL, and wait until it is dead."""
        self.send(signal.SIGKILL)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll(_DYING_SECONDS * 1000)

    def close(self) -> None:
        """Once."""
        os.close(self._pidfd)


def template_of(worker: Worker) -> Parent | None:
    """What it was forked from; None when that, or the worker itself, has ended."""
    # A zygote is a child of this process and adopts what dead templates leave; a template is a child of a zygote.
    with suppress(psutil.Error, ProcessLookupError), needing_descriptors():
        parent = psutil.Process(worker.pid).ppid()
        if worker.process.is_alive and _is_child_of_a_zygote(parent):
            return Parent(parent)
    return None


def zygote_of(worker: Worker) -> Parent | None:
    """What its template was forked from; None when there is none any more."""
    with suppress(psutil.Error, ProcessLookupError), needing_descriptors():
        parent = psutil.Process(worker.pid).ppid()
        if worker.process.is_alive:
            return Parent(psutil.Process(parent).ppid() if _is_child_of_a_zygote(parent) else parent)
    return None


def _is_child_of_a_zygote(pid: int) -> bool:
    return _is_ours(pid) and psutil.Process(pid).ppid() != os.getpid()


def _is_ours(pid: int) -> bool:
    """A zygote, or what was forked from one, and that neither the host nor the machine's first process."""
    if pid in (os.getpid(), 1):
        return False
    try:
        return _MODULE in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
