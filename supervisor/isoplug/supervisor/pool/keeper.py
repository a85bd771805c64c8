"""The one thread of a supervisor that does for its pools what nobody waits for: it ends what was idle for long, and
replaces what has served for long or has grown."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from typing import Protocol

from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Keeper", "Tended"]

_log = get_logger(__name__)

#: How long closing waits for the thread. By then the pools are closed, and what it talks to is dead.
_FAREWELL_SECONDS = 2.0


class Tended(Protocol):
    def tend(self) -> None:
        """Do what is due by now, and tell the keeper when to come again. In the keeper's thread, without any lock."""


class Keeper:
    """Thread-safe. The thread begins with the first visit that somebody asks for, and ends when none is due."""

    def __init__(self) -> None:
        # Taken after the lease book's lock, never before. Entered by itself, not through the condition: that one's
        # ``__enter__`` is Python, and an interrupt (Ctrl-C) in it would leave the lock held for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._visits: dict[Tended, float] = {}
        # The earliest first. What agrees no longer with ``_visits`` is left in it, and skipped when its time comes.
        self._queue: list[tuple[float, int, Tended]] = []
        self._numbers = itertools.count()  # of two visits at one instant, the one that was asked for first
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def visit(self, tended: Tended, at: float = 0.0) -> None:
        """Call ``tend`` once at the instant ``at`` (of ``time.monotonic``), or earlier when that was asked for."""
        with self._lock:
            if self._is_closed:
                return
            if at < self._visits.get(tended, math.inf):
                # In this order: an interrupt (Ctrl-C) in between leaves nothing that the thread would stumble over.
                heapq.heappush(self._queue, (at, next(self._numbers), tended))
                self._visits[tended] = at
            if self._thread is None:
                self._begin()
            elif self._queue[0][2] is tended:
                self._changed.notify()

    def forget(self, tended: Tended) -> None:
        with self._lock:
            self._visits.pop(tended, None)
            if not self._visits:
                self._changed.notify()

    def close(self) -> None:
        """No more visits; waits for one that is under way. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._visits.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(_FAREWELL_SECONDS)

    def _begin(self) -> None:
        """With the lock held, which the new thread waits for."""
        thread = threading.Thread(target=self._run, name="isoplug-keeper", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending: whoever asks next tries again
            _log.warning("keeper.not_started", reason=str(error))
        else:
            self._thread = thread

    def _run(self) -> None:
        while (tended := self._next()) is not None:
            try:
                tended.tend()
            except Exception:  # noqa: BLE001  a fault with one pool must not end the care for the others
                _log.exception("keeper.visit_failed")

    def _next(self) -> Tended | None:
        with self._lock:
            while self._visits:
                at, _, tended = self._queue[0]
                wait_seconds = at - time.monotonic()
                if self._visits.get(tended) != at:
                    heapq.heappop(self._queue)
                elif wait_seconds <= 0:
                    heapq.heappop(self._queue)
                    del self._visits[tended]
                    return tended
                else:
                    self._changed.wait(wait_seconds)
            self._queue.clear()
            self._thread = None  # whoever asks from now on begins another
            return None
