"""Extism's timer thread, which every call would wake twice, and which has nothing to do here.

It ends calls after their ``timeout_ms``. isoplug sets none, as the supervisor kills what is late, but Extism tells it
of each call's beginning and end all the same. To wake it costs up to four system calls, and then the two threads are in
each other's way, for a lock and for a core: a quarter of the CPU of a short call, and of the calls a second of several
callers on two cores a third. There is no option to leave it out.

So the thread that the guest runs in loses the power to wake another (``Stage.RUN_GUEST``), and a signal after each
tenth of a second of the process's CPU wakes the timer thread instead, to take the messages away. They are some 100
bytes a call and have no bound; this way they stay in the order of a megabyte.

**Why that is safe.** A wake-up that is withheld is one that comes late, for a thread that is in no hurry. Nothing waits
for it: Extism only sends. What the two share is the lock of their queue and perhaps malloc's; the timer thread holds
either while it runs, and then wakes whoever waits, as its own wake-ups are not withheld.

Not with WASI, whose first use may start threads that the guest's has to wake.
"""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["wake_by_itself"]

_PERIOD_SECONDS: Final = 0.1


def wake_by_itself() -> None:
    """The timer thread, from now on. To be called after it was started, in the thread that the guest runs in."""
    signal.signal(signal.SIGPROF, _nothing)  # not SIG_IGN: what is ignored wakes nobody
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})  # here, which leaves the timer thread
    signal.setitimer(signal.ITIMER_PROF, _PERIOD_SECONDS, _PERIOD_SECONDS)


def _nothing(*_: object) -> None:
    """That the signal has come is all it was for."""
