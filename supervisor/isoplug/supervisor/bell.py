"""What one thread waits on for a word of others, holding no lock meanwhile.

``threading.Condition`` is waited on with its lock held, and gives it up and takes it again in steps: an interrupt of
the host's thread (Ctrl-C) between two of them leaves the lock free that the ``with`` around it then releases, perhaps
from another thread's hands. So a thread of the host's looks under the lock, leaves it, waits here, and looks again.
"""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["Bell"]


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
