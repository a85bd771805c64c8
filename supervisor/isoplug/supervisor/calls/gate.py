"""Which calls are in progress. A supervisor that closes lets nobody in, and ends who does not leave in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from isoplug.shared.errors import SupervisorClosed
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain

__all__ = ["Gate"]


class Gate:
    """Thread-safe. Calls from outside come in by it; errands (starts of workers, and the last words to them) are on the
    supervisor's behalf, so they go on while it drains."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # entered by itself, see ``Keeper``
        self._changed = threading.Condition(self._lock)
        self._chains: set[Chain] = set()
        self._errands: set[Chain] = set()
        self._is_stopped = False
        self.is_closing = False

    def let_in(self, chain: Chain) -> None:
        """Raises SupervisorClosed."""
        with self._lock:
            if self.is_closing:
                raise SupervisorClosed
            self._chains.add(chain)

    def let_out(self, chain: Chain) -> None:
        try:
            chain.end()
        finally:  # also when that is interrupted: whoever drains waits for it
            with self._lock:
                self._chains.discard(chain)
                if self.is_closing:
                    self._changed.notify_all()

    @contextmanager
    def errand(self, chain: Chain, plugin_id: str) -> Iterator[None]:
        """Raises SupervisorClosed after ``stop``."""
        with self._lock:
            if self._is_stopped:
                raise SupervisorClosed(plugin_id)
            self._errands.add(chain)
        try:
            yield
        finally:
            with self._lock:
                self._errands.discard(chain)

    def drain(self, deadline: Deadline) -> None:
        """Let no new call in, wait for those that are in, cancel what is left at the deadline."""
        with self._lock:
            self.is_closing = True
            self._changed.wait_for(lambda: not self._chains, deadline.remaining_seconds())
            leftovers = tuple(self._chains)
        for chain in leftovers:
            chain.cancel()

    def stop(self) -> None:
        """End what is in progress now, errands too; let nothing in."""
        with self._lock:
            self.is_closing = self._is_stopped = True
            everything = (*self._chains, *self._errands)
        for chain in everything:
            chain.cancel()
