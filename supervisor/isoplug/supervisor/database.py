"""One SQLite file in the state folder, opened so that what was acknowledged stays. The only module that imports
``sqlite3``.

Rules of this file:

- One connection, used by one thread at a time (``_lock``). Other supervisors may have the same file open:
  whatever is read to decide a write is read inside the same ``transaction``, a ``BEGIN IMMEDIATE``, which admits one
  writer at a time over all processes.
- ``synchronous=FULL``: a commit is on the disk before ``transaction`` is left, so it survives a power cut, not only a
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
from contextlib import ExitStack, contextmanager, suppress
from sqlite3 import Connection
from typing import TYPE_CHECKING, Final

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.bell import held
from isoplug.supervisor.deadline import patience_seconds
from isoplug.supervisor.files import reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Connection", "Database"]

_BUSY_SECONDS: Final = 5.0
"""How long a write waits for another process's transaction, unless its call has less time. Ours take milliseconds."""

_DAMAGED: Final = "it is damaged or not a database: restore it from a backup, or move it away to start empty"

_WAL_LIMIT_BYTES: Final = 4 << 20
"""A write-ahead log that a large value has blown up is cut back to this by the next checkpoint."""


class Database:
    """One SQLite file, safe for several threads, and for several processes that each open it.

    Args:
        path: the file, made with mode 0600 when missing. Its folder must exist and should be private (0700):
            SQLite keeps two more files beside it.
        what: it in two words, for messages; guests see them.
        tables: the statements (``CREATE TABLE name``, ``CREATE INDEX``, ...) that make a new file's schema.
        schema_version: of those; a file with a higher one is refused. Counts from 1.

    Raises:
        SetupError: the file cannot be made or used, or is the database of something else; the text says why and
            what to do.
    """

    def __init__(self, path: Path, *, what: str, tables: tuple[str, ...], schema_version: int = 1) -> None:
        # Absolute, because SQLite gives relative names such as ":memory:" a meaning of their own.
        self._path = os.path.abspath(path)
        self._what = what
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()
        _make_private_file(self._path, what)
        self._busy_seconds = _BUSY_SECONDS  # what the connection waits at present
        self._connection: Connection | None = _open(self._path, what, tables, schema_version)

    @contextmanager
    def use(self, plugin_id: str | None, doing: str) -> Iterator[Connection]:
        """The connection, for this thread alone, with the translation of its errors. ``doing`` is ``read`` or
        ``write``, for messages.

        Raises:
            ServiceError: the file cannot be used (disk full, locked, read-only, damaged, closed, opened before a
                fork). ``is_transient`` when it is only busy.
        """
        if os.getpid() != self._owner_pid:  # neither the connection nor the lock may be used after a fork
            raise ServiceError(
                f"cannot {doing} the {self._what}: it was opened before a fork; open another one in this process",
                plugin_id=plugin_id,
            )
        # Bounded: while another process holds the file, each writer in turn keeps this lock for all of its patience.
        with held(self._lock, patience_seconds(_BUSY_SECONDS)) as is_mine:
            if not is_mine:
                failure = ServiceError(
                    f"cannot {doing} the {self._what}: other calls wait for it; try again", plugin_id=plugin_id
                )
                failure.is_transient = True
                raise failure
            try:
                if self._connection is None:
                    raise ServiceError(f"cannot {doing} the {self._what}: it is closed", plugin_id=plugin_id)
                self._wait_at_most(self._connection, patience_seconds(_BUSY_SECONDS))
                yield self._connection
            except (sqlite3.Error, UnicodeDecodeError) as error:
                # Guests see this text, so it does not say where the host keeps the file; the cause is for the host.
                failure = ServiceError(
                    f"cannot {doing} the {self._what}: {_words(error)}; {_advice(error)}", plugin_id=plugin_id
                )
                failure.is_transient = _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                raise failure from error

    @contextmanager
    def transaction(self, plugin_id: str | None) -> Iterator[Connection]:
        """``use`` inside one write transaction: committed and durable when left, rolled back by any exception."""
        with self.use(plugin_id, "write") as connection, _immediate(connection):
            yield connection

    @contextmanager
    def held(self, plugin_id: str | None) -> Iterator[None]:
        """Meanwhile another connection holds the file, as another program's would: nobody can write. For fault
        injection. Raises ServiceError when one holds it already."""
        with ExitStack() as held:
            try:
                seconds = patience_seconds(_BUSY_SECONDS)
                other = sqlite3.connect(self._path, timeout=seconds, isolation_level=None)
                held.callback(other.close)
                held.enter_context(_immediate(other))
            except sqlite3.Error as error:
                failure = ServiceError(f"cannot write the {self._what}: {_words(error)}", plugin_id=plugin_id)
                failure.is_transient = True
                raise failure from error
            yield

    def _wait_at_most(self, connection: Connection, seconds: float) -> None:
        if seconds != self._busy_seconds:
            connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}").fetchone()
            self._busy_seconds = seconds

    def close(self) -> None:
        """Wait for calls in progress and let go of the file. May be called again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):  # what was acknowledged is in the log; the next opener finds it there
                    connection.close()


@contextmanager
def _immediate(connection: Connection) -> Iterator[None]:
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


def _make_private_file(path: str, what: str) -> None:
    try:
        # mknod makes the file without a descriptor that would have to be closed (see the rules above). SQLite
        # gives the files that it makes beside the database the same mode.
        with suppress(FileExistsError):
            os.mknod(path, stat.S_IFREG | 0o600)
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot make the {what} {path!r}: {reason(error)}; its folder must exist and be writable, or "
            "choose another one with state_dir="
        ) from error
    if not stat.S_ISREG(mode):
        raise SetupError(f"the {what} {path!r} is not a regular file; move it away or choose another state_dir=")


def _open(path: str, what: str, tables: tuple[str, ...], schema_version: int) -> Connection:
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            _make_durable(connection, path, what)
            with _immediate(connection):  # so that of several processes one makes the tables
                _make_schema(connection, path, what, tables, schema_version)
            return connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: SQLite's message quotes a damaged schema
            if connection is not None:
                connection.close()
            # Several processes switch a new file to WAL at once: the losers get BUSY without any waiting,
            # because waiting could deadlock (busy_handler's documentation), so they wait here.
            if _primary_code(error) == sqlite3.SQLITE_BUSY and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            raise SetupError(f"cannot open the {what} {path!r}: {_words(error)}; {_advice(error)}") from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise


def _make_durable(connection: Connection, path: str, what: str) -> None:
    (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal_mode != "wal":
        raise SetupError(
            f"the {what} {path!r} cannot use a write-ahead log, as on network file systems; choose a "
            "state_dir= on a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")


def _make_schema(connection: Connection, path: str, what: str, tables: tuple[str, ...], schema_version: int) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not present:
        for statement in tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema_version}")
    elif not _table_names(tables) <= present or version < 1:
        raise SetupError(
            f"{path!r} is an SQLite database of something else, not a {what}; move it away or choose another state_dir="
        )
    elif version > schema_version:
        raise SetupError(
            f"the {what} {path!r} was written by a newer isoplug (schema {version}, this one knows "
            f"{schema_version}); update isoplug, or choose another state_dir="
        )


def _table_names(statements: tuple[str, ...]) -> set[str]:
    words = (statement.split() for statement in statements)
    return {name for create, kind, name, *_ in words if (create, kind) == ("CREATE", "TABLE")}


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
