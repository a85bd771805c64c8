"""What the supervisor asks of a storage service; ``SqliteStorage`` is the embedded one."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["MAX_QUOTA_BYTES", "Storage"]

MAX_QUOTA_BYTES: Final = 1 << 30
"""1 GiB: a higher quota, wherever it comes from, counts as this (SPEC section 7)."""


class Storage(Protocol):
    """Bytes by (plugin id, key), private to each plugin. Called from several threads at once.

    ``plugin_id`` is the supervisor's knowledge, ``key`` and ``value`` are a guest's and may be anything.
    """

    def get(self, plugin_id: str, key: str) -> bytes | None:
        """The value, or None when there is none.

        Raises:
            ServiceError: the storage cannot be read.
        """
        ...

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        """Store ``value``; an empty one deletes the key. Once this returns, the value survives ``kill -9``.

        ``quota_bytes`` bounds the *total* of the plugin's values and counts as ``MAX_QUOTA_BYTES`` when it is
        higher.

        Raises:
            ResourceLimitExceeded: the plugin's total would exceed the quota; nothing was changed.
            ServiceError: the storage cannot be written; nothing was acknowledged.
        """
        ...
