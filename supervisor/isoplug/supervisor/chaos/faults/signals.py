"""Signals to workers, as somebody outside of isoplug sends them: nothing of the supervisor is told."""

from __future__ import annotations

import signal
from contextlib import suppress

from isoplug.supervisor.pool import Worker

__all__ = ["end_by", "send"]

#: A process that is to die takes a millisecond; a busy machine may take longer.
_DYING_SECONDS = 10.0


def send(worker: Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        signal.pidfd_send_signal(worker.process.pidfd, number)


def end_by(worker: Worker, number: signal.Signals) -> None:
    """Send a signal that it dies of, and wait until it has: what comes afterwards is the same in each run."""
    send(worker, number)
    send(worker, signal.SIGCONT)
    worker.process.wait(_DYING_SECONDS)
