"""Which calls of an event loop begin in a thread: those that would have to go on in one anyway."""

from __future__ import annotations

from typing import Final

__all__ = ["Habits"]

#: So many calls begin in a thread after one that had to go on in one; then the loop tries again.
_IN_THREADS: Final = 30
#: Of what is called; names come from callers.
_MAX_HABITS: Final = 10_000


class Habits:
    """Which calls are expected to leave the loop, from those before: it is cheaper then to begin in a thread. Calls
    are known by their plugin and ``what`` is called there. Several loops may share it: at worst a call begins elsewhere
    than it should."""

    def __init__(self) -> None:
        self._in_threads: dict[tuple[str, str], int] = {}

    def begins_in_thread(self, plugin_id: str, what: str) -> bool:
        """To be asked once for each call: it is one less then."""
        left = self._in_threads.pop((plugin_id, what), 0)
        if left > 1:
            self._in_threads[plugin_id, what] = left - 1
        return left > 0

    def left_loop(self, plugin_id: str, what: str) -> None:
        if len(self._in_threads) >= _MAX_HABITS:
            self._in_threads.clear()
        self._in_threads[plugin_id, what] = _IN_THREADS
