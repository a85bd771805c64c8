"""The chains that wait for a worker of one pool: first come, first served, and only so many."""

from __future__ import annotations

from collections import deque

from isoplug.shared.errors import PluginBusy
from isoplug.supervisor.pool.deadlock import Waitable
from isoplug.supervisor.pool.lease import Chain

__all__ = ["Turns"]


class Turns:
    """Guarded by the book's lock, over which the chains wait."""

    def __init__(self, plugin_id: str, bound: int) -> None:
        self._plugin_id = plugin_id
        self._bound = bound
        self._queue: deque[Chain] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._queue

    def is_next(self, chain: Chain) -> bool:
        """Nobody else comes first."""
        return not self._queue or self._queue[0] is chain

    def join(self, chain: Chain, pool: Waitable) -> None:
        """Raises PluginBusy when as many wait as may."""
        if len(self._queue) >= self._bound:
            raise PluginBusy(self._plugin_id, self._bound)
        chain.waiting_for = pool
        self._queue.append(chain)

    def leave(self, chain: Chain) -> None:
        """Idempotent, and for a chain that never joined: an interrupt (Ctrl-C) may have come anywhere in ``join``, or
        here."""
        if chain.waiting_for is not None:
            if chain in self._queue:
                self._queue.remove(chain)
            chain.waiting_for = None

    def call_next(self) -> None:
        """Wake the first one: a worker may be free for it."""
        if self._queue:
            self._queue[0].turn.ring()

    def call_all(self) -> None:
        """Wake everybody: the pool has nothing for anybody any more."""
        for chain in self._queue:
            chain.turn.ring()
