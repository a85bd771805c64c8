"""What one plugin may keep: how long a key, how many, how many bytes. Rules without I/O, the same wherever it is kept.

What exceeds a bound is refused, unless it brings what is over it already closer. ``limits`` is how the names of the
limits in ``ResourceLimitExceeded`` begin.
"""

from __future__ import annotations

from typing import Final

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.storage.protocol import MAX_QUOTA_BYTES

__all__ = ["MAX_KEYS", "MAX_KEY_BYTES", "check_bytes", "check_key", "check_keys", "is_storable"]

MAX_KEY_BYTES: Final = 1024
"""Of a key in UTF-8. Keys do not count towards the quota, so they need bounds of their own."""

MAX_KEYS: Final = 10_000
"""Per plugin; with ``MAX_KEY_BYTES`` this bounds the keys of a plugin to 10 MiB."""


def check_bytes(plugin_id: str, used_bytes: int, new_bytes: int, quota_bytes: int, limits: str) -> None:
    """Raises ResourceLimitExceeded."""
    quota = max(0, min(quota_bytes, MAX_QUOTA_BYTES))
    if new_bytes > quota and new_bytes >= used_bytes:
        raise ResourceLimitExceeded(
            plugin_id,
            f"{limits}_bytes",
            new_bytes,
            quota,
            "delete values that are no longer needed, or raise quota_bytes in the plugin's plugin_storage rule",
        )


def check_keys(plugin_id: str, used_keys: int, new_keys: int, limits: str) -> None:
    """Raises ResourceLimitExceeded."""
    if new_keys > MAX_KEYS and new_keys > used_keys:
        raise ResourceLimitExceeded(
            plugin_id, f"{limits}_keys", new_keys, MAX_KEYS, "keep several entries in one value, or delete old keys"
        )


def check_key(plugin_id: str, key: str, limits: str) -> None:
    """Raises ResourceLimitExceeded, and ServiceError for what has no UTF-8."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise ServiceError(
            f"{limits} keys must be Unicode text without lone surrogates", plugin_id=plugin_id
        ) from error
    if size > MAX_KEY_BYTES:
        raise ResourceLimitExceeded(
            plugin_id, f"{limits}_key_bytes", size, MAX_KEY_BYTES, "use a shorter key, for example a hash"
        )


def is_storable(key: str) -> bool:
    try:
        return len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False
