"""The regular workers of one pool: those that run, and those that are being started. Bookkeeping without I/O, guarded
by the book's lock."""

from __future__ import annotations

from collections.abc import Iterable

from isoplug.supervisor.pool.lease import Chain
from isoplug.supervisor.pool.member import Member

__all__ = ["Crew", "StartUnderWay"]


class StartUnderWay:
    """A worker to be. ``chain`` is None while it backs off, and that of its ``init`` afterwards."""

    __slots__ = ("chain", "is_outdated", "is_restart", "is_waiting")

    def __init__(self, chain: Chain | None = None, *, is_restart: bool = False, is_waiting: bool = False) -> None:
        self.chain = chain
        #: It takes the place of a worker that was lost.
        self.is_restart = is_restart
        #: It backs off.
        self.is_waiting = is_waiting
        #: What it is configured with may be from before a change.
        self.is_outdated = False


class Crew:
    """``size`` workers is what a pool wants to have."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.members: list[Member] = []
        self.starts: list[StartUnderWay] = []
        #: Starts that were begun in the place of workers that were lost.
        self.restarts = 0

    def free(self) -> Member | None:
        for member in self.members:
            if member.holder is None:
                return member
        return None

    @property
    def missing(self) -> int:
        """How many starts it lacks."""
        staying = sum(not member.leaves_because for member in self.members)
        return self.size - staying - len(self.starts)

    @property
    def is_moving(self) -> bool:
        """A worker is free, or comes without the help of any chain. See ``deadlock.Waitable``."""
        return self.free() is not None or any(start.chain is None for start in self.starts)

    @property
    def holders(self) -> Iterable[Chain]:
        """Who has a worker that comes back, or starts one."""
        yield from (member.holder for member in self.members if member.holder is not None)
        yield from (start.chain for start in self.starts if start.chain is not None)

    def begin(self, start: StartUnderWay, chain: Chain) -> None:
        """It backs off no longer."""
        start.is_waiting = False
        start.chain = chain
        self.restarts += start.is_restart

    def remove(self, member: Member) -> None:
        """It serves nobody any more. Idempotent."""
        member.is_out = True
        if member in self.members:
            self.members.remove(member)

    def surplus(self) -> list[Member]:
        """Those that leave, as far as their successors are there."""
        leaving = [member for member in self.members if member.leaves_because]
        return leaving[: max(0, len(self.members) - self.size)]
