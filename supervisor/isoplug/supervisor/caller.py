"""Who waits for a service's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from isoplug.supervisor.deadline import Deadline

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Which plugin asks, until when, and how to learn that nobody waits any more.

    ``watch()`` returns a new descriptor that becomes readable when the worker that asked has ended, be it by a crash, a
    cancelled call or a closing supervisor; whoever calls it closes the descriptor. A service that waits for something
    outside (a network peer, a process) waits for this as well, and gives up then or at the deadline. It raises
    ServiceError when the worker has ended and been forgotten.
    """

    plugin_id: str
    deadline: Deadline
    watch: Callable[[], int]

    def within(self, timeout_seconds: float) -> Caller:
        """The same caller with a deadline that many seconds from now, or its own when that is earlier."""
        return replace(self, deadline=min(self.deadline, Deadline.after(timeout_seconds)))
