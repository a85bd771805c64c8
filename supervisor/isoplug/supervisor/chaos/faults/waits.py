"""How faults wait: never longer than the call has, and in the end as at the call's deadline, only sooner."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.link import Silence

__all__ = ["PATIENCE_SECONDS", "fall_silent", "pause", "require_among", "require_seconds"]

#: How long a call that would hang waits before it ends as at its deadline, so that a run of thousands of faults takes
#: minutes.
PATIENCE_SECONDS = 0.05
_MOST_SECONDS = 3600.0


def pause(seconds: float, deadline: Deadline) -> None:
    """Raises Silence when the call has no more time than that."""
    time.sleep(min(seconds, deadline.remaining_seconds()))
    if deadline.has_passed:
        raise Silence


def fall_silent(patience: float, deadline: Deadline) -> NoReturn:
    """Nothing comes any more. Raises Silence."""
    pause(patience, deadline)
    raise Silence


def require_seconds(fault: str, **parameters: Any) -> None:
    """Raises InvalidArgument unless each is a number of seconds, from 0 to an hour."""
    for name, seconds in parameters.items():
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= _MOST_SECONDS:
            raise InvalidArgument(f"fault {fault!r}: {name} is seconds, from 0 to {_MOST_SECONDS:g}, not {seconds!r}")


def require_among(fault: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises InvalidArgument."""
    if value not in known:
        raise InvalidArgument(f"fault {fault!r}: {name} is {', '.join(known[:-1])} or {known[-1]}, not {value!r}")
