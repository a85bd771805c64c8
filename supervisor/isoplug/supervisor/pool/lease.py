"""Call chains, and who waits for whom.

A chain is a call from outside with every plugin command that it causes; one thread runs all of it. A chain holds the
worker of each plugin that it is inside of, so a chain that waits for a worker may wait, over other chains, for itself:
A → B → A alone, or A → B beside B → A. ``LeaseBook.would_deadlock`` sees that before the wait begins.

Invariant: under ``LeaseBook.lock`` the graph *chain → pool it waits for → chain that holds it* has no cycle. Only a
chain that begins to wait adds an edge that could close one, and it looks first.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoplug.supervisor.pool.pool import Pool
    from isoplug.supervisor.pool.worker import Worker

__all__ = ["Chain", "LeaseBook"]


class LeaseBook:
    """One lock for the leases of all pools of a supervisor: what is decided under it is short and does no waiting."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def would_deadlock(self, chain: Chain, pool: Pool) -> bool:
        """True when ``chain``, waiting for ``pool``, would wait for itself. Call with the lock held."""
        wanted: Pool | None = pool
        while wanted is not None and wanted.holder is not None:
            if wanted.holder is chain:
                return True
            wanted = wanted.holder.waiting_for
        return False


class Chain:
    """Identity of a call chain, and the handle by which another thread can end it."""

    def __init__(self, book: LeaseBook) -> None:
        self.waiting_for: Pool | None = None  # guarded by the book's lock
        self._book = book
        self._turn: threading.Condition | None = None
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._is_cancelled = False

    @property
    def turn(self) -> threading.Condition:
        """What the chain waits on for a worker; over the book's lock, which has to be held. Few chains ever wait."""
        if self._turn is None:
            self._turn = threading.Condition(self._book.lock)
        return self._turn

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def enter(self, worker: Worker) -> Worker | None:
        """The chain's thread starts to talk to ``worker``; returns the one it talked to before (for ``leave``)."""
        with self._lock:
            outer, self._worker = self._worker, worker
            if self._is_cancelled:
                worker.process.kill()
            return outer

    def leave(self, outer: Worker | None) -> None:
        with self._lock:
            self._worker = outer

    def cancel(self) -> None:
        """End the chain from any thread: its current worker dies, a wait for a worker ends. Idempotent."""
        with self._lock:
            self._is_cancelled = True
            if self._worker is not None:
                self._worker.process.kill()
        with self._book.lock:
            self.turn.notify()
