"""Extism's timer thread, which every call would wake twice, and which has nothing to do here.

It ends calls after their ``timeout_ms``. isoplug sets none, as the supervisor kills what is late, but Extism tells it
of each call's beginning and end all the same. To wake it costs up to four system calls, and then the two threads are in
each other's way, for a lock and for a core: a quarter of the CPU of a short call, and of the calls a second of several
callers on two cores a third. There is no option to leave it out.

Two things make it cheaper:

- It begins with the scheduling policy for batch jobs. Then it does not take the core from the thread that has woken it,
  but runs when that one waits for its supervisor again, once for both messages.
- The thread that the guest runs in loses the power to wake another (``Stage.RUN_GUEST``), and a signal after each
  tenth of a second of the process's CPU wakes the timer thread instead, to take the messages away. They are some 100
  bytes a call and have no bound; this way they stay in the order of a megabyte. Not with WASI, whose first use may
  start threads that the guest's has to wake.

**Why that is safe.** A wake-up that is withheld is one that comes late, for a thread that is in no hurry. Nothing waits
for it: Extism only sends. What the two share is the lock of their queue and malloc's. The timer thread holds either
while it runs, and then wakes whoever waits, as its own wake-ups are not withheld. When it waits for the queue's, it has
nothing else, and the next signal ends that as well. Wake-ups for malloc's are never withheld: it may wait for that
with the queue's in its hands, and at every message that it takes away.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["begins_behind", "wake_by_itself"]

_PERIOD_SECONDS: Final = 0.1


@contextmanager
def begins_behind() -> Iterator[None]:
    """A thread that is started inside has the policy for batch jobs.

    Unless this one has another than the usual: whoever chose that may not be able to choose it again.
    """
    usual = False
    with suppress(OSError):  # musl has no such call
        usual = os.sched_getscheduler(0) == os.SCHED_OTHER
    if usual:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    yield
    if usual:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def wake_by_itself() -> None:
    """The timer thread, from now on. To be called after it was started, in the thread that the guest runs in."""
    signal.signal(signal.SIGPROF, _nothing)  # not SIG_IGN: what is ignored wakes nobody
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})  # here, which leaves the timer thread
    signal.setitimer(signal.ITIMER_PROF, _PERIOD_SECONDS, _PERIOD_SECONDS)


def _nothing(*_: object) -> None:
    """That the signal has come is all it was for."""
