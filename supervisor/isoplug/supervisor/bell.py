"""What one thread waits on for a word of others, holding no lock meanwhile.

``threading.Condition`` is waited on with its lock held, and gives it up and takes it again in steps: an interrupt of
the host's thread (Ctrl-C) between two of them leaves the lock free that the ``with`` around it then releases, perhaps
from another thread's hands. So a thread of the host's looks under the lock, leaves it, waits here, and looks again.
Where it waits for a lock itself, and not for ever, ``held`` sees to it that an interrupt leaves it free.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Bell", "held"]


class Bell:
    """For one waiting thread; any may ring. A bell that rings while nobody waits ends the next wait at once, so nothing
    is missed between a look and a wait; whoever waits looks again, and may have been rung for nothing."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._silence.release()

    def wait(self, seconds: float) -> None:
        """Until it rings, for at most that long."""
        self._silence.acquire(timeout=seconds)


@contextmanager
def held(lock: threading.RLock, seconds: float) -> Iterator[bool]:
    """Hold the lock, which is waited for at most so long; False: it was not to be had."""
    # Taken within the try, since an interrupt may come when it has just been taken; an RLock knows whether it was.
    try:
        yield lock.acquire(timeout=seconds)
    finally:
        try:  # noqa: SIM105  an interrupt could come in suppress(), before the lock is free
            lock.release()
        except RuntimeError:  # it is not this thread's
            pass
