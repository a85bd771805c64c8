"""Storage in memory that remembers what was read and written."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from isoplug.supervisor.storage.bounds import check_bytes, check_key, check_keys
from isoplug.supervisor.testing.tape import Tape

__all__ = ["RecordingStorage", "StorageAccess"]

_LIMITS = "storage"  # as the embedded storage calls them


class StorageAccess(NamedTuple):
    """``value`` is what was found (None: nothing) or what was written (empty: deleted)."""

    plugin_id: str
    key: str
    value: bytes | None
    is_write: bool


class RecordingStorage:
    """``Storage`` for tests, with the bounds of the embedded one.

    Args:
        values: what is there from the beginning, by plugin id and key. It outlives a plugin's restart, and may be
            handed from one supervisor to the next.
    """

    def __init__(self, values: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self._tape = Tape[StorageAccess]("storage accesses")
        self._values = {plugin_id: dict(entries) for plugin_id, entries in (values or {}).items()}
        self._lock = threading.Lock()

    def get(self, plugin_id: str, key: str) -> bytes | None:
        """See ``Storage.get``."""
        with self._lock:
            value = self._values.get(plugin_id, {}).get(key)
        self._tape.add(StorageAccess(plugin_id, key, value, is_write=False), len(key))
        return value

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        """See ``Storage.set``. Raises ResourceLimitExceeded and ServiceError as the embedded storage does."""
        check_key(plugin_id, key, _LIMITS)
        with self._lock:
            entries = self._values.setdefault(plugin_id, {})
            if value:
                used_bytes, old = sum(map(len, entries.values())), entries.get(key)
                new_bytes = used_bytes - len(old or b"") + len(value)
                check_bytes(plugin_id, used_bytes, new_bytes, quota_bytes, _LIMITS)
                check_keys(plugin_id, len(entries), len(entries) + (old is None), _LIMITS)
            self._tape.add(StorageAccess(plugin_id, key, value, is_write=True), len(key) + len(value))
            if value:
                entries[key] = value
            else:
                entries.pop(key, None)

    def values(self, plugin_id: str) -> dict[str, bytes]:
        """What a plugin has stored, by key."""
        with self._lock:
            return dict(self._values.get(plugin_id, {}))

    @property
    def accesses(self) -> list[StorageAccess]:
        """What was read and written, in order; refused writes are not here."""
        return self._tape.entries()

    def clear(self) -> None:
        """Forget the accesses; what is stored stays."""
        self._tape.clear()
