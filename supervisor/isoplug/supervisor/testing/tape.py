"""What every recording service is made of: a bounded list that several threads write and a test reads or waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from isoplug.shared.errors import ServiceError

__all__ = ["Tape"]

_T = TypeVar("_T")

#: A guest that runs wild writes until its call's deadline; both bounds are far above what a test looks at.
_MAX_ENTRIES = 100_000
_MAX_BYTES = 64 << 20
_SHOWN_ENTRIES = 5


class Tape(Generic[_T]):
    """Thread-safe. ``what`` names the entries in messages: "events"."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: list[_T] = []
        self._bytes = 0
        self._changed = threading.Condition()

    def add(self, entry: _T, size_bytes: int = 0) -> None:
        """Raises ServiceError when the tape is full."""
        with self._changed:
            if len(self._entries) >= _MAX_ENTRIES or self._bytes + size_bytes > _MAX_BYTES:
                raise ServiceError(f"the test has recorded {len(self._entries)} {self._what}, which is all it can hold")
            self._entries.append(entry)
            self._bytes += size_bytes
            self._changed.notify_all()

    def entries(self) -> list[_T]:
        """A copy, oldest first."""
        with self._changed:
            return list(self._entries)

    def clear(self) -> None:
        with self._changed:
            self._entries.clear()
            self._bytes = 0

    def wait_for(self, matches: Callable[[_T], bool], timeout: float) -> _T:
        """The first entry that ``matches``, now or within ``timeout`` seconds. Raises AssertionError: a test that waits
        in vain has failed."""
        with self._changed:
            found = self._changed.wait_for(lambda: [entry for entry in self._entries if matches(entry)][:1], timeout)
            if not found:
                latest = self._entries[-_SHOWN_ENTRIES:]
                raise AssertionError(f"waited {timeout:g} s in vain; the latest {self._what}: {latest or 'none'}")
            return found[0]
