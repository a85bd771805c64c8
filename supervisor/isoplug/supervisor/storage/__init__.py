"""Storage: what plugins keep between runs, keyed by (plugin id, key) and bounded by a quota per plugin."""

from isoplug.supervisor.storage.protocol import MAX_QUOTA_BYTES, Storage
from isoplug.supervisor.storage.sqlite import SqliteStorage

__all__ = ["MAX_QUOTA_BYTES", "SqliteStorage", "Storage"]
