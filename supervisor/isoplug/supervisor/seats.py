"""Which of an event loop's calls may have a thread: first come, first served within a plugin, and no plugin has more
seats than it can use, so that one that hangs leaves the others theirs.

Of one event loop, used in its thread, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

from isoplug.shared.errors import CallTimeout, PluginBusy
from isoplug.supervisor.deadline import Deadline

__all__ = ["Seats"]


class Seats:
    """``total`` seats; ``queue`` bounds how many wait for one plugin's."""

    def __init__(self, total: int, queue: int) -> None:
        self._free = total
        self._queue = queue
        self._taken: Counter[str] = Counter()
        # Of the plugins for which somebody waits; the first lane is served first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._bounds: dict[str, int] = {}

    async def take(self, plugin_id: str, bound: int, deadline: Deadline) -> None:
        """Wait for a seat, of which the plugin may have ``bound``; ``give_back`` it. Raises PluginBusy, CallTimeout."""
        # A seat that is free is free for whoever comes: those who wait elsewhere have all that their plugin may have.
        if self._free and plugin_id not in self._waiting and self._taken[plugin_id] < bound:
            self._give(plugin_id)
            return
        if len(self._waiting.get(plugin_id, ())) >= self._queue:
            raise PluginBusy(plugin_id, self._queue)
        seat = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(plugin_id, deque()).append(seat)
        self._bounds[plugin_id] = bound
        self._seat_next()
        try:
            async with asyncio.timeout(deadline.remaining_seconds()):
                await seat
        except BaseException as error:
            self._leave(plugin_id, seat)
            if isinstance(error, TimeoutError):
                raise CallTimeout(plugin_id, "waiting for a thread", deadline.timeout_seconds) from None
            raise

    def give_back(self, plugin_id: str) -> None:
        self._free += 1
        self._taken[plugin_id] -= 1
        if not self._taken[plugin_id]:  # ids come from callers, and need not be those of plugins
            del self._taken[plugin_id]
        self._seat_next()

    def _give(self, plugin_id: str) -> None:
        self._free -= 1
        self._taken[plugin_id] += 1

    def _leave(self, plugin_id: str, seat: asyncio.Future[None]) -> None:
        """Whoever waited for it has gone."""
        lane = self._waiting.get(plugin_id)
        if lane is not None and seat in lane:
            lane.remove(seat)
            self._forget_if_empty(plugin_id)
            self._seat_next()
        else:  # it was given the seat just now
            self.give_back(plugin_id)

    def _seat_next(self) -> None:
        while self._free and (plugin_id := self._next_lane()) is not None:
            seat = self._waiting[plugin_id].popleft()
            self._waiting.move_to_end(plugin_id)
            self._forget_if_empty(plugin_id)
            self._give(plugin_id)
            if not seat.done():
                seat.set_result(None)

    def _next_lane(self) -> str | None:
        return next((lane for lane in self._waiting if self._taken[lane] < self._bounds[lane]), None)

    def _forget_if_empty(self, plugin_id: str) -> None:
        if not self._waiting[plugin_id]:
            del self._waiting[plugin_id], self._bounds[plugin_id]
