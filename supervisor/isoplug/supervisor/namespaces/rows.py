"""The rows of the embedded provider: its tables, the statements, and what a row costs of a plugin's quota.

Every row begins with the plugin's id, so plugins cannot see each other's namespaces. Invariant: ``usage`` holds, for
each plugin, what all its rows cost and how many objects it has; a row and its cost change in one transaction.

``store`` has one row, made with the file: the id that tells its objects' files from those of another database.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor import wall_clock
from isoplug.supervisor.database import Connection
from isoplug.supervisor.namespaces.protocol import Namespace, NewObject, ObjectInfo

__all__ = ["MAX_AUDIENCES", "MAX_NAMESPACES", "MAX_OBJECTS", "OWNER", "TABLES", "PluginRows", "StoredObject"]

OWNER: Final = "local"
"""``owner_user_id`` of all namespaces: whoever runs this host."""

MAX_NAMESPACES: Final = 1_000
"""Per plugin. A plugin has one a workspace, or a few."""

MAX_AUDIENCES: Final = 1_000
"""Per namespace."""

MAX_OBJECTS: Final = 100_000
"""Per plugin: each is a file, and file systems have only so many."""

TABLES: Final = (
    """CREATE TABLE namespaces (
        plugin_id  TEXT    NOT NULL,
        id         TEXT    NOT NULL,
        created_at INTEGER NOT NULL,
        metadata   TEXT    NOT NULL,
        PRIMARY KEY (plugin_id, id)
    )""",
    """CREATE TABLE objects (
        plugin_id    TEXT    NOT NULL,
        namespace_id TEXT    NOT NULL,
        key          TEXT    NOT NULL,
        file         TEXT    NOT NULL,
        mime_type    TEXT    NOT NULL,
        audience     TEXT,
        size_bytes   INTEGER NOT NULL,
        content_hash TEXT    NOT NULL,
        updated_at   INTEGER NOT NULL,
        PRIMARY KEY (plugin_id, namespace_id, key)
    )""",
    """CREATE TABLE audiences (
        plugin_id    TEXT NOT NULL,
        namespace_id TEXT NOT NULL,
        name         TEXT NOT NULL,
        gates        TEXT NOT NULL,
        PRIMARY KEY (plugin_id, namespace_id, name)
    )""",
    """CREATE TABLE usage (
        plugin_id TEXT    NOT NULL PRIMARY KEY,
        bytes     INTEGER NOT NULL,
        objects   INTEGER NOT NULL
    )""",
    "CREATE TABLE store (id TEXT NOT NULL)",
    "INSERT INTO store VALUES (lower(hex(randomblob(8))))",
)

_ROW_BYTES: Final = 128
"""What a row costs beside its texts: numbers, hash, index. Without it, empty objects would cost nothing."""


class StoredObject(NamedTuple):
    """The row of an object, as far as reading and replacing it need it; ``file`` is the name of its content's file."""

    file: str
    mime_type: str
    audience: str | None
    size_bytes: int
    content_hash: str


class PluginRows:
    """The rows of one plugin, over a connection that is this thread's alone; who changes any is in a transaction.

    What would exceed ``quota_bytes`` or a number raises ResourceLimitExceeded. Methods with an ``ns_id`` expect that
    ``require_namespace`` did not raise.
    """

    def __init__(self, connection: Connection, plugin_id: str, quota_bytes: int) -> None:
        self._connection = connection
        self._plugin_id = plugin_id
        self._quota_bytes = quota_bytes

    # --- namespaces -------------------------------------------------------------------------------------------------

    def add_namespace(self, ns_id: str, created_at: int, metadata_json: str) -> None:
        (count,) = self._row("SELECT count(*) FROM namespaces WHERE plugin_id = ?")
        self._check_count("namespaces", count + 1, MAX_NAMESPACES)
        self._charge(_cost(ns_id, metadata_json))
        self._execute("INSERT INTO namespaces VALUES (?, ?, ?, ?)", ns_id, created_at, metadata_json)

    def namespaces(self) -> list[Namespace]:
        """The newest first, as servers list them."""
        rows = self._rows("SELECT id, created_at, metadata FROM namespaces WHERE plugin_id = ? ORDER BY rowid DESC")
        return [Namespace(ns_id, OWNER, created_at, json.loads(metadata)) for ns_id, created_at, metadata in rows]

    def require_namespace(self, ns_id: str) -> None:
        """Raises ServiceError when the plugin has no such namespace."""
        if not self._rows("SELECT 1 FROM namespaces WHERE plugin_id = ? AND id = ?", ns_id):
            raise ServiceError(
                f"plugin {self._plugin_id!r} has no namespace {ns_id!r}; host_namespace_list tells which it has, "
                "host_namespace_create makes one",
                plugin_id=self._plugin_id,
            )

    # --- objects ----------------------------------------------------------------------------------------------------

    def object(self, ns_id: str, key: str) -> StoredObject | None:
        rows = self._rows(
            "SELECT file, mime_type, audience, size_bytes, content_hash FROM objects"
            " WHERE plugin_id = ? AND namespace_id = ? AND key = ?",
            ns_id,
            key,
        )
        return StoredObject(*rows[0]) if rows else None

    def check_room(self, ns_id: str, new: NewObject) -> None:
        """Whether ``new`` would fit, before its content is written for nothing."""
        self._used_with(*_difference(new, self.object(ns_id, new.key)))

    def put_object(self, ns_id: str, new: NewObject, stored: StoredObject) -> StoredObject | None:
        """Store the row of ``new``; what it replaced."""
        old = self.object(ns_id, new.key)
        self._charge(*_difference(new, old))
        self._execute(
            "INSERT OR REPLACE INTO objects (plugin_id, namespace_id, key, file, mime_type, audience, size_bytes,"
            " content_hash, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ns_id,
            new.key,
            *stored,
            int(wall_clock.now()),
        )
        return old

    def delete_object(self, ns_id: str, key: str) -> StoredObject | None:
        """What was deleted; None when there was none."""
        old = self.object(ns_id, key)
        if old is not None:
            self._execute("DELETE FROM objects WHERE plugin_id = ? AND namespace_id = ? AND key = ?", ns_id, key)
            self._charge(-_object_cost(key, old), -1)
        return old

    def list_objects(self, ns_id: str, prefix: str, limit: int | None, offset: int) -> list[ObjectInfo]:
        """By the keys' bytes."""
        end = _end_of_prefix(prefix)
        rows = self._rows(
            "SELECT key, audience, mime_type, size_bytes, updated_at, content_hash FROM objects"
            " WHERE plugin_id = ? AND namespace_id = ? AND key >= ? AND (? IS NULL OR key < ?)"
            " ORDER BY key LIMIT ? OFFSET ?",
            *(ns_id, prefix, end, end, -1 if limit is None else limit, offset),
        )
        return [
            ObjectInfo(key, ns_id, None, audience, mime_type, size_bytes, updated_at, content_hash)
            for key, audience, mime_type, size_bytes, updated_at, content_hash in rows
        ]

    # --- audiences --------------------------------------------------------------------------------------------------

    def set_audience(self, ns_id: str, name: str, gates_json: str) -> None:
        old = self._gates(ns_id, name)
        if old is None:
            (count,) = self._row("SELECT count(*) FROM audiences WHERE plugin_id = ? AND namespace_id = ?", ns_id)
            self._check_count("audiences", count + 1, MAX_AUDIENCES)
        self._charge(_cost(name, gates_json) - _gates_cost(name, old))
        self._execute("INSERT OR REPLACE INTO audiences VALUES (?, ?, ?, ?)", ns_id, name, gates_json)

    def audiences(self, ns_id: str) -> list[str]:
        rows = self._rows("SELECT name FROM audiences WHERE plugin_id = ? AND namespace_id = ? ORDER BY name", ns_id)
        return [name for (name,) in rows]

    def delete_audience(self, ns_id: str, name: str) -> None:
        """Objects that have it stay, without an audience."""
        old = self._gates(ns_id, name)
        self._execute("DELETE FROM audiences WHERE plugin_id = ? AND namespace_id = ? AND name = ?", ns_id, name)
        untagged = self._execute(
            "UPDATE objects SET audience = NULL WHERE plugin_id = ? AND namespace_id = ? AND audience = ?", ns_id, name
        )
        self._charge(-_gates_cost(name, old) - untagged * len(name.encode()))

    def _gates(self, ns_id: str, name: str) -> str | None:
        rows = self._rows(
            "SELECT gates FROM audiences WHERE plugin_id = ? AND namespace_id = ? AND name = ?", ns_id, name
        )
        return rows[0][0] if rows else None

    # --- bounds -----------------------------------------------------------------------------------------------------

    def _charge(self, bytes_more: int, objects_more: int = 0) -> None:
        self._execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", *self._used_with(bytes_more, objects_more))

    def _used_with(self, bytes_more: int, objects_more: int) -> tuple[int, int]:
        """Bytes and objects that the plugin would have then. Under a quota that was lowered, shrinking still works."""
        rows = self._rows("SELECT bytes, objects FROM usage WHERE plugin_id = ?")
        used_bytes, used_objects = rows[0] if rows else (0, 0)
        used_bytes, used_objects = used_bytes + bytes_more, used_objects + objects_more
        if bytes_more > 0 and used_bytes > self._quota_bytes:
            raise ResourceLimitExceeded(
                self._plugin_id,
                "the size of all the plugin's namespaces in bytes",
                used_bytes,
                self._quota_bytes,
                "delete objects that are no longer needed, or raise limits.namespace_quota",
            )
        if objects_more > 0:
            self._check_count("objects", used_objects, MAX_OBJECTS)
        return used_bytes, used_objects

    def _check_count(self, what: str, count: int, bound: int) -> None:
        if count > bound:
            raise ResourceLimitExceeded(
                self._plugin_id, f"the number of {what}", count, bound, "delete or reuse old ones"
            )

    # --- statements: the first parameter of each is the plugin ------------------------------------------------------

    def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        return self._connection.execute(statement, (self._plugin_id, *parameters)).fetchall()

    def _row(self, statement: str, *parameters: Any) -> Any:
        return self._rows(statement, *parameters)[0]

    def _execute(self, statement: str, *parameters: Any) -> int:
        """How many rows it changed."""
        return self._connection.execute(statement, (self._plugin_id, *parameters)).rowcount


def _cost(*texts: str | None) -> int:
    return _ROW_BYTES + sum(len(text.encode()) for text in texts if text is not None)


def _object_cost(key: str, stored: StoredObject) -> int:
    return stored.size_bytes + _cost(key, stored.mime_type, stored.audience)


def _gates_cost(name: str, gates_json: str | None) -> int:
    return 0 if gates_json is None else _cost(name, gates_json)


def _difference(new: NewObject, old: StoredObject | None) -> tuple[int, int]:
    """Bytes and objects that ``new`` adds when it takes the place of ``old``."""
    cost = len(new.content) + _cost(new.key, new.mime_type, new.audience)
    return (cost, 1) if old is None else (cost - _object_cost(new.key, old), 0)


def _end_of_prefix(prefix: str) -> str | None:
    """The first text after all that begin with ``prefix``, in the order of code points, which is that of UTF-8 bytes;
    None when there is none."""
    rest = prefix.rstrip("\U0010ffff")
    if not rest:
        return None
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(0xE000 if following == 0xD800 else following)  # surrogates stand for no character
