"""What time it is, for people: what guests are told and what is written down. isoplug itself measures with the
monotonic clock.

The one place that reads the clock on the wall, so that fault injection can set it for one call (``jumped``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["jumped", "now"]

#: Seconds that the clock has jumped, for the call that this thread serves, and for nobody else.
_jump: ContextVar[float] = ContextVar("isoplug_clock_jump", default=0.0)


def now() -> float:
    """Seconds since the epoch."""
    return time.time() + _jump.get()


@contextmanager
def jumped(seconds: float) -> Iterator[None]:
    """The clock is off by so many seconds more, for what this thread does within."""
    before = _jump.set(_jump.get() + seconds)
    try:
        yield
    finally:
        _jump.reset(before)
