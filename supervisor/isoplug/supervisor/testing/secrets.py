"""Secrets in memory, for a test to give and to look at."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from isoplug.supervisor.storage.bounds import check_bytes, check_key, check_keys

__all__ = ["MemorySecrets"]

_LIMITS = "secret"  # as the embedded secrets call them


class MemorySecrets:
    """``Secrets`` for tests: nothing is sealed, and nothing recorded but what there is.

    Args:
        values: what is there from the beginning, by plugin id and key.
    """

    def __init__(self, values: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._values = {plugin_id: dict(entries) for plugin_id, entries in (values or {}).items()}
        self._lock = threading.Lock()

    def get(self, plugin_id: str, key: str) -> str | None:
        """See ``Secrets.get``."""
        with self._lock:
            return self._values.get(plugin_id, {}).get(key)

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        """See ``Secrets.set``. Raises ResourceLimitExceeded."""
        check_key(plugin_id, key, _LIMITS)
        with self._lock:
            entries = self._values.setdefault(plugin_id, {})
            changed = {**entries, key: value}
            check_bytes(plugin_id, _size_bytes(entries), _size_bytes(changed), quota_bytes, _LIMITS)
            check_keys(plugin_id, len(entries), len(changed), _LIMITS)
            self._values[plugin_id] = changed

    def delete(self, plugin_id: str, key: str) -> None:
        """See ``Secrets.delete``."""
        with self._lock:
            self._values.get(plugin_id, {}).pop(key, None)

    def values(self, plugin_id: str) -> dict[str, str]:
        """What a plugin has stored, by key."""
        with self._lock:
            return dict(self._values.get(plugin_id, {}))


def _size_bytes(values: Mapping[str, str]) -> int:
    return sum(len(value.encode("utf-8", "surrogatepass")) for value in values.values())
