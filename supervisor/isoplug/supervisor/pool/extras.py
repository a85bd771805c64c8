"""The extra instances of one plugin: lent to chains that would wait for themselves, then kept warm for a while.

Bookkeeping without I/O, guarded by the book's lock. Those that are lent, those that start and those that are warm count
together against the bound. A start never has to push out a warm one: while there is a warm one, nobody starts another.
"""

from __future__ import annotations

from isoplug.shared.errors import ResourceLimitExceeded
from isoplug.supervisor.pool.lease import Chain
from isoplug.supervisor.pool.member import Member

__all__ = ["Extras"]


class Extras:
    """``bound`` instances at once, warm for ``idle_seconds``."""

    def __init__(self, plugin_id: str, bound: int, idle_seconds: float) -> None:
        self._plugin_id = plugin_id
        self._bound = bound
        self._idle_seconds = idle_seconds
        self.lent: set[Member] = set()
        self.warm: list[Member] = []  # the one that was used last is the last
        self.starting: set[Chain] = set()
        self._outdated_starts: set[Chain] = set()

    @property
    def is_at_rest(self) -> bool:
        return not self.lent and not self.starting

    @property
    def members(self) -> tuple[Member, ...]:
        return (*self.lent, *self.warm)

    def next_warm(self) -> Member | None:
        """The one that was used last, so that the others' time runs out."""
        return self.warm[-1] if self.warm else None

    def lend(self, member: Member) -> None:
        self.remove(member)
        self.lent.add(member)

    def begin_start(self, chain: Chain) -> None:
        """Raises ResourceLimitExceeded."""
        running = len(self.lent) + len(self.starting)
        if running >= self._bound:
            raise ResourceLimitExceeded(
                self._plugin_id,
                f"the number of extra instances of plugin {self._plugin_id!r}",
                running + 1,
                self._bound,
                "call chains come back to it too often at once; raise calls.max_extra_instances if that is meant",
            )
        self.starting.add(chain)

    def end_start(self, chain: Chain, member: Member | None = None) -> None:
        """``member`` is what came of it, lent to ``chain``. Idempotent."""
        if member is not None:
            member.is_out = chain in self._outdated_starts
            self.lent.add(member)
        self._outdated_starts.discard(chain)
        self.starting.discard(chain)

    def put_back(self, member: Member, now: float) -> bool:
        """False when it is not to be kept."""
        self.remove(member)
        member.holder = None
        if member.is_out or self._idle_seconds <= 0:
            return False
        member.idle_since = now
        self.warm.append(member)
        return True

    def remove(self, member: Member) -> None:
        """Idempotent."""
        self.lent.discard(member)
        if member in self.warm:
            self.warm.remove(member)

    def expired(self, now: float) -> list[Member]:
        """Those that were warm long enough, taken out."""
        expired = [member for member in self.warm if member.idle_since + self._idle_seconds <= now]
        for member in expired:
            self.warm.remove(member)
        return expired

    @property
    def next_expiry(self) -> float | None:
        return self.warm[0].idle_since + self._idle_seconds if self.warm else None

    def outdate(self) -> list[Member]:
        """None of those that there are now serves another chain; the warm ones, taken out."""
        for member in self.lent:
            member.is_out = True
        self._outdated_starts |= self.starting
        warm, self.warm = self.warm, []
        return warm
