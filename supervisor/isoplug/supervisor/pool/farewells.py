"""Workers on their way out: each is told so, as long as it listens, and ended. Nobody waits for a goodbye."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.worker import Worker

__all__ = ["LEAVE_SECONDS", "Farewell", "Farewells"]

#: Tells a worker that it is going to end (``shutdown``), by the deadline; raises nothing.
Farewell: TypeAlias = Callable[[Worker, Deadline], None]

#: How long a worker that was told to stop may take; it only has to leave its loop.
LEAVE_SECONDS = 1.0
#: What a guest gets for its goodbye even when the deadline has passed.
_LEAST_SECONDS = 0.1
#: Workers of one plugin that may wait for theirs. Guests that never end it must not pile up.
_MAX_WAITING = 8


class Farewells:
    """Of one pool. Fields are guarded by the book's ``lock``, over which ``changed`` is made."""

    def __init__(
        self, lock: threading.Lock, changed: threading.Condition, farewell: Farewell, timeout_seconds: float
    ) -> None:
        self._lock, self._changed = lock, changed
        self._farewell = farewell
        self._timeout_seconds = timeout_seconds
        self.waiting: list[Worker] = []
        self.parting: set[Worker] = set()
        #: Those that wait are left to whoever closes the pool, who has less time for them.
        self.is_closing = False

    def add(self, worker: Worker) -> None:
        """With the lock held. One too many is killed without a word."""
        if len(self.waiting) + len(self.parting) >= _MAX_WAITING:
            worker.process.kill()
        self.waiting.append(worker)

    def take_waiting(self) -> list[Worker]:
        """With the lock held."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def say_all(self) -> None:
        """To all that wait, in this thread."""
        while True:
            with self._lock:
                if self.is_closing or not self.waiting:
                    return
                worker = self.waiting.pop(0)
                self.parting.add(worker)
            try:
                self.say(worker, Deadline.after(self._timeout_seconds))
            finally:
                with self._lock:
                    self.parting.discard(worker)
                    self._changed.notify_all()

    def say(self, worker: Worker, deadline: Deadline) -> None:
        """To this one, which nobody else has; then it is ended."""
        try:
            if worker.is_fit():
                self._farewell(worker, Deadline.after(max(_LEAST_SECONDS, deadline.remaining_seconds())))
        finally:
            worker.end(grace_seconds=LEAVE_SECONDS)

    def hurry(self) -> None:
        """With the lock held: those that are parting have had their time."""
        for worker in self.parting:
            worker.process.kill()

    def processes(self) -> Iterable[Worker]:
        """With the lock held."""
        return (*self.waiting, *self.parting)
