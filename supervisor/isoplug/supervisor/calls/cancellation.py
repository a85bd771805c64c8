"""How a thread ends calls that other threads make."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from isoplug.supervisor.pool import Chain

__all__ = ["Cancellation"]


class Cancellation:
    """Pass it to calls (``cancellation=``) and ``cancel`` it from any thread: those in progress end with
    CallCancelled, whatever they wait for, and their workers are replaced; later ones do not begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chains: set[Chain] = set()
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> None:
        """Does not wait for the calls to end. Idempotent."""
        with self._lock:
            self._is_cancelled = True
            chains = tuple(self._chains)
        for chain in chains:
            chain.cancel()

    @contextmanager
    def covering(self, chain: Chain) -> Iterator[None]:
        """For the runner: while this chain runs, ``cancel`` ends it."""
        with self._lock:
            self._chains.add(chain)
        try:
            if self._is_cancelled:
                chain.cancel()
            yield
        finally:
            with self._lock:
                self._chains.discard(chain)
