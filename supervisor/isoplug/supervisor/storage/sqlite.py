"""The embedded storage: one SQLite file in the state directory.

Invariant: ``usage`` holds, for each plugin, the sum of ``length(value)`` and the number of its rows in ``entries``;
both tables change in one transaction. (Summing on every write costs 5 to 20 ms at 10,000 keys, under the write lock.)
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from isoplug.supervisor.database import Connection, Database
from isoplug.supervisor.storage.bounds import check_bytes, check_key, check_keys, is_storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["SqliteStorage"]

_TABLES: Final = (
    """CREATE TABLE entries (
        plugin_id TEXT NOT NULL,
        key       TEXT NOT NULL,
        value     BLOB NOT NULL,
        PRIMARY KEY (plugin_id, key)
    )""",
    """CREATE TABLE usage (
        plugin_id TEXT    NOT NULL PRIMARY KEY,
        bytes     INTEGER NOT NULL,
        keys      INTEGER NOT NULL
    )""",
)


class SqliteStorage:
    """``Storage`` in one SQLite file, safe for several threads, and for several processes that each open it.

    Args:
        path: the file, made with mode 0600 when missing. Its folder must exist and should be private (0700):
            SQLite keeps two more files beside it.
        what: it in two words, for messages.
        limits: how the names of the limits in ``ResourceLimitExceeded`` begin.

    Raises:
        SetupError: the file cannot be made or used; the text says why and what to do.
    """

    def __init__(self, path: Path, *, what: str = "plugin storage", limits: str = "storage") -> None:
        self._database = Database(path, what=what, tables=_TABLES)
        self._limits = limits

    def get(self, plugin_id: str, key: str) -> bytes | None:
        """See ``Storage.get``. A key that could never be stored has no value."""
        if not is_storable(key):
            return None
        with self._database.use(plugin_id, "read") as connection:
            return _value(connection, plugin_id, key)

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        """See ``Storage.set``. A value that replaces a smaller one counts the difference.

        Under a quota that was lowered below what is stored, deleting and shrinking still work.

        Raises:
            ResourceLimitExceeded: ``limit`` is ``storage_bytes`` (over the quota), ``storage_keys`` (more
                than ``MAX_KEYS``) or ``storage_key_bytes`` (longer than ``MAX_KEY_BYTES``); nothing was
                changed.
            ServiceError: the file cannot be written (disk full, locked, read-only, damaged, closed).
        """
        check_key(plugin_id, key, self._limits)
        with self._database.transaction(plugin_id) as connection:
            self._set(connection, plugin_id, key, value, quota_bytes)

    def get_or_make(self, plugin_id: str, key: str, make: Callable[[], bytes], quota_bytes: int) -> bytes:
        """The value, or what ``make()`` returns, which is stored in the same transaction: of several processes one
        makes it, and the others wait. Raises what ``set`` and ``make`` raise."""
        check_key(plugin_id, key, self._limits)
        with self._database.transaction(plugin_id) as connection:
            value = _value(connection, plugin_id, key)
            if value is None:
                value = make()
                self._set(connection, plugin_id, key, value, quota_bytes)
        return value

    @contextmanager
    def held(self, plugin_id: str) -> Iterator[None]:
        """See ``Database.held``."""
        with self._database.held(plugin_id):
            yield

    def close(self) -> None:
        """Wait for calls in progress and let go of the storage. May be called again."""
        self._database.close()

    def _set(self, connection: Connection, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        used_bytes, used_keys = _usage(connection, plugin_id)
        old_bytes = _value_bytes(connection, plugin_id, key)
        if not value:
            if old_bytes is not None:
                connection.execute("DELETE FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key))
                _set_usage(connection, plugin_id, used_bytes - old_bytes, used_keys - 1)
            return
        new_bytes = used_bytes - (old_bytes or 0) + len(value)
        new_keys = used_keys + (old_bytes is None)
        check_bytes(plugin_id, used_bytes, new_bytes, quota_bytes, self._limits)
        check_keys(plugin_id, used_keys, new_keys, self._limits)
        connection.execute(
            "INSERT INTO entries (plugin_id, key, value) VALUES (?, ?, ?)"
            " ON CONFLICT (plugin_id, key) DO UPDATE SET value = excluded.value",
            (plugin_id, key, value),
        )
        _set_usage(connection, plugin_id, new_bytes, new_keys)


# --- statements ---------------------------------------------------------------------------------------------


def _usage(connection: Connection, plugin_id: str) -> tuple[int, int]:
    row = connection.execute("SELECT bytes, keys FROM usage WHERE plugin_id = ?", (plugin_id,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _set_usage(connection: Connection, plugin_id: str, used_bytes: int, keys: int) -> None:
    connection.execute(
        "INSERT INTO usage (plugin_id, bytes, keys) VALUES (?, ?, ?)"
        " ON CONFLICT (plugin_id) DO UPDATE SET bytes = excluded.bytes, keys = excluded.keys",
        (plugin_id, used_bytes, keys),
    )


def _value(connection: Connection, plugin_id: str, key: str) -> bytes | None:
    # CAST, because a column of SQLite may hold any type, whatever somebody else's hands put there.
    row = connection.execute(
        "SELECT CAST(value AS BLOB) FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _value_bytes(connection: Connection, plugin_id: str, key: str) -> int | None:
    row = connection.execute(
        "SELECT length(value) FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key)
    ).fetchone()
    return None if row is None else int(row[0])
