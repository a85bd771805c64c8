"""The embedded storage: one SQLite file in the state directory. The only module that imports ``sqlite3``.

Rules of this file:

- One connection, used by one thread at a time (``_lock``). Other supervisors may have the same file open:
  whatever is read to decide a write is read inside the same ``BEGIN IMMEDIATE`` transaction, which admits one
  writer at a time over all processes.
- Invariant: ``usage`` holds, for each plugin, the sum of ``length(value)`` and the number of its rows in
  ``entries``; both tables change in one transaction. (Summing on every write costs 5 to 20 ms at 10,000 keys,
  under the write lock.)
- ``synchronous=FULL``: a commit is on the disk before ``set`` returns, so it survives a power cut, not only a
  kill.
- Never ``open()`` and close the database file beside SQLite: closing *any* descriptor of a file drops all
  POSIX locks that this process holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
- Every ``sqlite3.Error`` is translated: ``SetupError`` while opening, ``ServiceError`` afterwards.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor.files import reason
from isoplug.supervisor.storage.protocol import MAX_QUOTA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_KEYS", "MAX_KEY_BYTES", "SqliteStorage"]

MAX_KEY_BYTES: Final = 1024
"""Of a key in UTF-8. Keys do not count towards the quota, so they need bounds of their own."""

MAX_KEYS: Final = 10_000
"""Per plugin; with ``MAX_KEY_BYTES`` this bounds the keys of a plugin to 10 MiB."""

_SCHEMA_VERSION: Final = 1

_BUSY_SECONDS: Final = 5.0
"""How long a write waits for another process's transaction. Ours take milliseconds."""

_DAMAGED: Final = "it is damaged or not a database: restore it from a backup, or move it away to start empty"

_WAL_LIMIT_BYTES: Final = 4 << 20
"""A write-ahead log that a large value has blown up is cut back to this by the next checkpoint."""

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

    Raises:
        SetupError: the file cannot be made or used; the text says why and what to do.
    """

    def __init__(self, path: Path) -> None:
        # Absolute, because SQLite gives relative names such as ":memory:" a meaning of their own.
        self._path = os.path.abspath(path)
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        _make_private_file(self._path)
        self._connection: sqlite3.Connection | None = _open(self._path)

    def get(self, plugin_id: str, key: str) -> bytes | None:
        """See ``Storage.get``. A key that could never be stored has no value."""
        if not _is_storable(key):
            return None
        with self._use(plugin_id, "read") as connection:
            row = connection.execute(
                "SELECT value FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        """See ``Storage.set``. A value that replaces a smaller one counts the difference.

        Under a quota that was lowered below what is stored, deleting and shrinking still work.

        Raises:
            ResourceLimitExceeded: ``limit`` is ``storage_bytes`` (over the quota), ``storage_keys`` (more
                than ``MAX_KEYS``) or ``storage_key_bytes`` (longer than ``MAX_KEY_BYTES``); nothing was
                changed.
            ServiceError: the file cannot be written (disk full, locked, read-only, damaged, closed).
        """
        _check_key(plugin_id, key)
        with self._transaction(plugin_id) as connection:
            used_bytes, used_keys = _usage(connection, plugin_id)
            old_bytes = _value_bytes(connection, plugin_id, key)
            if not value:
                if old_bytes is not None:
                    connection.execute("DELETE FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key))
                    _set_usage(connection, plugin_id, used_bytes - old_bytes, used_keys - 1)
                return
            new_bytes = used_bytes - (old_bytes or 0) + len(value)
            new_keys = used_keys + (old_bytes is None)
            _check_bounds(plugin_id, used_bytes, used_keys, new_bytes, new_keys, quota_bytes)
            connection.execute(
                "INSERT INTO entries (plugin_id, key, value) VALUES (?, ?, ?)"
                " ON CONFLICT (plugin_id, key) DO UPDATE SET value = excluded.value",
                (plugin_id, key, value),
            )
            _set_usage(connection, plugin_id, new_bytes, new_keys)

    def close(self) -> None:
        """See ``Storage.close``."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):  # what was acknowledged is in the log; the next opener finds it there
                    connection.close()

    @contextmanager
    def _use(self, plugin_id: str, doing: str) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone, with the translation of its errors."""
        if os.getpid() != self._owner_pid:  # neither the connection nor the lock may be used after a fork
            raise ServiceError(
                f"cannot {doing} the plugin storage: it was opened before a fork; open another one in this process",
                plugin_id=plugin_id,
            )
        # Bounded: while another process holds the file, each writer in turn keeps this lock for all of its patience.
        if not self._lock.acquire(timeout=_BUSY_SECONDS):
            failure = ServiceError(
                f"cannot {doing} the plugin storage: other calls wait for it; try again", plugin_id=plugin_id
            )
            failure.retryable = True
            raise failure
        try:
            if self._connection is None:
                raise ServiceError(f"cannot {doing} the plugin storage: it is closed", plugin_id=plugin_id)
            yield self._connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # Guests see this text, so it does not say where the host keeps the file; the cause is for the host.
            failure = ServiceError(
                f"cannot {doing} the plugin storage: {_words(error)}; {_advice(error)}", plugin_id=plugin_id
            )
            failure.retryable = _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            raise failure from error
        finally:
            self._lock.release()

    @contextmanager
    def _transaction(self, plugin_id: str) -> Iterator[sqlite3.Connection]:
        with self._use(plugin_id, "write") as connection, _immediate(connection):
            yield connection


# --- what a set decides -------------------------------------------------------------------------------------


def _check_bounds(
    plugin_id: str, used_bytes: int, used_keys: int, new_bytes: int, new_keys: int, quota_bytes: int
) -> None:
    """Refuse what exceeds a bound, unless it brings a plugin that is already over it closer to the bound."""
    quota = max(0, min(quota_bytes, MAX_QUOTA_BYTES))
    if new_bytes > quota and new_bytes >= used_bytes:
        raise ResourceLimitExceeded(
            plugin_id,
            "storage_bytes",
            new_bytes,
            quota,
            "delete values that are no longer needed, or raise quota_bytes in the plugin's plugin_storage rule",
        )
    if new_keys > MAX_KEYS and new_keys > used_keys:
        raise ResourceLimitExceeded(
            plugin_id,
            "storage_keys",
            new_keys,
            MAX_KEYS,
            "keep several entries in one value, or delete old keys",
        )


def _check_key(plugin_id: str, key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise ServiceError("storage keys must be Unicode text without lone surrogates", plugin_id=plugin_id) from error
    if size > MAX_KEY_BYTES:
        raise ResourceLimitExceeded(
            plugin_id, "storage_key_bytes", size, MAX_KEY_BYTES, "use a shorter key, for example a hash"
        )


def _is_storable(key: str) -> bool:
    try:
        return len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


# --- statements ---------------------------------------------------------------------------------------------


def _usage(connection: sqlite3.Connection, plugin_id: str) -> tuple[int, int]:
    row = connection.execute("SELECT bytes, keys FROM usage WHERE plugin_id = ?", (plugin_id,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _set_usage(connection: sqlite3.Connection, plugin_id: str, used_bytes: int, keys: int) -> None:
    connection.execute(
        "INSERT INTO usage (plugin_id, bytes, keys) VALUES (?, ?, ?)"
        " ON CONFLICT (plugin_id) DO UPDATE SET bytes = excluded.bytes, keys = excluded.keys",
        (plugin_id, used_bytes, keys),
    )


def _value_bytes(connection: sqlite3.Connection, plugin_id: str, key: str) -> int | None:
    row = connection.execute(
        "SELECT length(value) FROM entries WHERE plugin_id = ? AND key = ?", (plugin_id, key)
    ).fetchone()
    return None if row is None else int(row[0])


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction; whatever leaves it early, also a signal handler's exception, rolls it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has already rolled back after some errors, a full disk among them
            with suppress(sqlite3.Error):  # the first error is the one to report
                connection.execute("ROLLBACK")
        raise


# --- opening ------------------------------------------------------------------------------------------------


def _make_private_file(path: str) -> None:
    try:
        # mknod makes the file without a descriptor that would have to be closed (see the rules above). SQLite
        # gives the files that it makes beside the database the same mode.
        with suppress(FileExistsError):
            os.mknod(path, stat.S_IFREG | 0o600)
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot make the plugin storage {path!r}: {reason(error)}; its folder must exist and be writable, or "
            "choose another one with state_dir="
        ) from error
    if not stat.S_ISREG(mode):
        raise SetupError(
            f"the plugin storage {path!r} is not a regular file; move it away or choose another state_dir="
        )


def _open(path: str) -> sqlite3.Connection:
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            _prepare(connection, path)
            return connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: SQLite's message quotes a damaged schema
            if connection is not None:
                connection.close()
            # Several processes switch a new file to WAL at once: the losers get BUSY without any waiting,
            # because waiting could deadlock (busy_handler's documentation), so they wait here.
            if _primary_code(error) == sqlite3.SQLITE_BUSY and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            raise SetupError(f"cannot open the plugin storage {path!r}: {_words(error)}; {_advice(error)}") from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal_mode != "wal":
        raise SetupError(
            f"the plugin storage {path!r} cannot use a write-ahead log, as on network file systems; choose a "
            "state_dir= on a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    with _immediate(connection):  # so that of several processes one makes the tables
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if version == 0 and not tables:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        elif not {"entries", "usage"} <= tables or version < 1:
            raise SetupError(
                f"{path!r} is an SQLite database of something else, not a plugin storage; move it away or choose "
                "another state_dir="
            )
        elif version > _SCHEMA_VERSION:
            raise SetupError(
                f"the plugin storage {path!r} was written by a newer isoplug (schema {version}, this one knows "
                f"{_SCHEMA_VERSION}); update isoplug, or choose another state_dir="
            )


# --- errors -------------------------------------------------------------------------------------------------


def _words(error: sqlite3.Error | UnicodeDecodeError) -> str:
    return "the file is damaged" if isinstance(error, UnicodeDecodeError) else str(error)


def _primary_code(error: Exception) -> int:
    """SQLite's primary result code, the low byte of extended ones; -1 for errors of the Python module."""
    code: int = getattr(error, "sqlite_errorcode", -1)
    return code & 0xFF if code >= 0 else -1


def _advice(error: sqlite3.Error | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return _DAMAGED
    match _primary_code(error):
        case sqlite3.SQLITE_FULL:
            return "free space on that disk"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another process holds it; end that process or try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return "make the file and its folder writable for this user"
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return _DAMAGED
        case sqlite3.SQLITE_IOERR:
            return "check the disk and the system's log"
        case _:
            return "see SQLite's message"
