"""An instant by which something has to be over."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import NamedTuple

from isoplug.shared.errors import InvalidArgument

__all__ = ["MAX_TIMEOUT_SECONDS", "Deadline", "call_deadline", "patience_seconds"]

#: A day. Longer timeouts are mistakes of unit, and ``poll`` takes milliseconds in 32 bits.
MAX_TIMEOUT_SECONDS = 86_400.0


class Deadline(NamedTuple):
    """``at`` is an instant of ``time.monotonic``; ``timeout_seconds`` is how far off it was, for messages."""

    at: float
    timeout_seconds: float

    @classmethod
    def after(cls, timeout_seconds: float) -> Deadline:
        """A deadline that many seconds from now. Raises InvalidArgument unless 0 < seconds <= one day."""
        is_number = isinstance(timeout_seconds, (int, float)) and not isinstance(timeout_seconds, bool)
        if not is_number or not 0 < timeout_seconds <= MAX_TIMEOUT_SECONDS:
            raise InvalidArgument(
                f"timeout must be seconds, more than 0 and at most {MAX_TIMEOUT_SECONDS:g}, not {timeout_seconds!r}"
            )
        return cls(time.monotonic() + timeout_seconds, float(timeout_seconds))

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        """``after`` for a wait that may be none at all: 0 is allowed."""
        return cls.after(seconds) if seconds else cls(time.monotonic(), 0.0)

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self.at

    def remaining_seconds(self) -> float:
        """Never negative."""
        return max(0.0, self.at - time.monotonic())

    def remaining_ms(self) -> int:
        """Rounded up, so that a wait of this length does not end just before the deadline."""
        return math.ceil(self.remaining_seconds() * 1000)


#: Of the call that this thread serves, for what is asked something without being told for whom.
call_deadline: ContextVar[Deadline | None] = ContextVar("call_deadline", default=None)


def patience_seconds(bound_seconds: float) -> float:
    """How long such a one may wait: as long as it likes to, and no longer than the call has."""
    deadline = call_deadline.get()
    return bound_seconds if deadline is None else min(bound_seconds, deadline.remaining_seconds())
