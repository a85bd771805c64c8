"""How a thread ends calls that other threads make."""

from __future__ import annotations

import threading

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

    def cover(self, chain: Chain) -> None:
        """For the runner: from now on until ``uncover``, ``cancel`` ends this chain."""
        with self._lock:
            self._chains.add(chain)
        if self._is_cancelled:
            chain.cancel()

    def uncover(self, chain: Chain) -> None:
        with self._lock:
            self._chains.discard(chain)
