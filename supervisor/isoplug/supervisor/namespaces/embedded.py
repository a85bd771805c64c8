"""The embedded provider: namespaces in an SQLite file (``rows``), contents of objects in files beside it (``objects``).

An object is stored in three steps, so that a crash between any two leaves the old object or the new one: write the
file, name it in the database, remove the file that was named before.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoplug.shared.errors import PluginError, ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor import wall_clock
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.database import Database
from isoplug.supervisor.namespaces.names import json_text
from isoplug.supervisor.namespaces.objects import STORE_ID, ObjectFiles
from isoplug.supervisor.namespaces.protocol import (
    Audience,
    Batch,
    Gate,
    Namespace,
    NewObject,
    ObjectContent,
    ObjectInfo,
    SentEmail,
)
from isoplug.supervisor.namespaces.rows import OWNER, TABLES, PluginRows, StoredObject

__all__ = ["EmbeddedNamespaces"]


class EmbeddedNamespaces:
    """A ``NamespaceProvider`` on this machine. Building and sending e-mail need a server, and say so.

    Args:
        folder: private (0700); holds ``namespaces.sqlite3`` and ``objects/``.
        quota_bytes: of one plugin: contents of objects, and everything else it stores here.

    Raises:
        SetupError: the file or the folder of objects cannot be made or used.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._quota_bytes = quota_bytes
        path = folder / "namespaces.sqlite3"
        self._database = Database(path, what="namespaces", tables=TABLES)
        try:
            self._files = ObjectFiles(folder / "objects", self._store_id(), self._files_in_use)
        except BaseException as error:
            self._database.close()
            if isinstance(error, ServiceError):
                raise SetupError(f"{str(path)!r}: {error}") from error
            raise

    def host(self, plugin_id: str) -> None:
        """See ``NamespaceProvider.host``."""
        return

    def close(self) -> None:
        """Let go of files. May be called again."""
        self._database.close()
        self._files.close()

    # --- namespaces -------------------------------------------------------------------------------------------------

    def create(self, caller: Caller, metadata: Any) -> Namespace:
        """See ``NamespaceProvider.create``."""
        made = Namespace(str(uuid.uuid4()), OWNER, int(wall_clock.now()), metadata)
        metadata_json = json_text(metadata)
        with self._writing(caller) as rows:
            rows.add_namespace(made.id, made.created_at, metadata_json)
        return made

    def list(self, caller: Caller) -> Sequence[Namespace]:
        """See ``NamespaceProvider.list``."""
        with self._reading(caller) as rows:
            return rows.namespaces()

    # --- objects ----------------------------------------------------------------------------------------------------

    def put_object(self, caller: Caller, ns_id: str, new: NewObject) -> None:
        """See ``NamespaceProvider.put_object``. The object may name an audience that does not exist yet."""
        with self._reading(caller, ns_id) as rows:
            rows.check_room(ns_id, new)
        stored = self._write(new)
        try:
            with self._writing(caller, ns_id) as rows:
                old = rows.put_object(ns_id, new, stored)
        except PluginError:  # nothing was committed. After anything else that is not certain: the file stays, for now
            self._files.remove(stored.file)
            raise
        if old is not None:
            self._files.remove(old.file)

    def get_object(self, caller: Caller, ns_id: str, key: str, max_bytes: int) -> ObjectContent:
        """See ``NamespaceProvider.get_object``."""
        missing = ""
        while not caller.deadline.has_passed:
            stored = self._find(caller, ns_id, key)
            if stored.size_bytes > max_bytes:
                raise ResourceLimitExceeded(
                    caller.plugin_id, f"the size of the object {key!r} in bytes", stored.size_bytes, max_bytes
                )
            content = self._files.read(stored.file, stored.size_bytes)
            if content is not None:
                return _undamaged(key, content, stored)
            if stored.file == missing:
                raise ServiceError(f"the object {key!r} is missing on the host's disk; store it again")
            missing = stored.file  # most likely replaced between the two: look again
        raise _time_is_up(caller)

    def get_objects(self, caller: Caller, ns_id: str, keys: Sequence[str], max_bytes: int) -> Batch:
        """See ``NamespaceProvider.get_objects``."""
        with self._reading(caller, ns_id):
            pass  # there is such a namespace: otherwise that is no matter of single keys
        objects: dict[str, ObjectContent] = {}
        errors: dict[str, str] = {}
        for key in keys:
            if caller.deadline.has_passed:
                raise _time_is_up(caller)
            try:
                objects[key] = self.get_object(caller, ns_id, key, max_bytes)
                max_bytes -= len(objects[key].content)
            except ResourceLimitExceeded as error:
                errors[key] = f"{error}; ask for fewer objects at once"
            except ServiceError as error:
                errors[key] = str(error)
        return Batch(objects, errors)

    def delete_object(self, caller: Caller, ns_id: str, key: str) -> None:
        """See ``NamespaceProvider.delete_object``."""
        with self._writing(caller, ns_id) as rows:
            old = rows.delete_object(ns_id, key)
        if old is not None:
            self._files.remove(old.file)

    def list_objects(
        self, caller: Caller, ns_id: str, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> Sequence[ObjectInfo]:
        """See ``NamespaceProvider.list_objects``. Never less than was asked for: guests take what is not listed for
        deleted."""
        with self._reading(caller, ns_id) as rows:
            return rows.list_objects(ns_id, prefix, limit, offset)

    # --- audiences --------------------------------------------------------------------------------------------------

    def set_audience(self, caller: Caller, ns_id: str, audience: Audience) -> None:
        """See ``NamespaceProvider.set_audience``. Passwords are not kept: nobody comes to these gates, so they would be
        of use only to who reads the file."""
        gates_json = json_text([_without_password(gate) for gate in audience.gates])
        with self._writing(caller, ns_id) as rows:
            rows.set_audience(ns_id, audience.name, gates_json)

    def list_audiences(self, caller: Caller, ns_id: str) -> Sequence[str]:
        """See ``NamespaceProvider.list_audiences``."""
        with self._reading(caller, ns_id) as rows:
            return rows.audiences(ns_id)

    def delete_audience(self, caller: Caller, ns_id: str, name: str) -> None:
        """See ``NamespaceProvider.delete_audience``."""
        with self._writing(caller, ns_id) as rows:
            rows.delete_audience(ns_id, name)

    # --- what needs a server ----------------------------------------------------------------------------------------

    def send_email(self, caller: Caller, ns_id: str, audience: str, subject: str, reply_to: str | None) -> SentEmail:
        """Raises ServiceError."""
        raise _needs_server(caller, "sending e-mail")

    def build(self, caller: Caller, ns_id: str, base_url: str | None) -> None:
        """Raises ServiceError."""
        raise _needs_server(caller, "building")

    # --- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self, caller: Caller, ns_id: str | None = None) -> Iterator[PluginRows]:
        with self._database.use(caller.plugin_id, "read") as connection:
            rows = PluginRows(connection, caller.plugin_id, self._quota_bytes)
            if ns_id is not None:
                rows.require_namespace(ns_id)
            yield rows

    @contextmanager
    def _writing(self, caller: Caller, ns_id: str | None = None) -> Iterator[PluginRows]:
        with self._database.transaction(caller.plugin_id) as connection:
            rows = PluginRows(connection, caller.plugin_id, self._quota_bytes)
            if ns_id is not None:
                rows.require_namespace(ns_id)
            yield rows

    def _store_id(self) -> str:
        with self._database.use(None, "read") as connection:
            row = connection.execute("SELECT CAST(id AS TEXT) FROM store").fetchone()
            if row is None or not STORE_ID.fullmatch(str(row[0])):
                raise ServiceError(
                    "cannot read the namespaces: the file is damaged: restore it from a backup, or move it away to "
                    "start empty"
                )
            store_id: str = row[0]
            return store_id

    def _files_in_use(self) -> set[str]:
        with self._database.use(None, "read") as connection:
            return {name for (name,) in connection.execute("SELECT file FROM objects")}

    def _write(self, new: NewObject) -> StoredObject:
        digest = hashlib.sha256(new.content).hexdigest()
        return StoredObject(self._files.write(new.content), new.mime_type, new.audience, len(new.content), digest)

    def _find(self, caller: Caller, ns_id: str, key: str) -> StoredObject:
        with self._reading(caller, ns_id) as rows:
            stored = rows.object(ns_id, key)
        if stored is None:
            # "not found": by these words, which servers answer too, guests tell an absence from a failure.
            raise ServiceError(f"object {key!r} not found; host_namespace_list_objects tells which there are")
        if not isinstance(stored.file, str) or not isinstance(
            stored.size_bytes, int
        ):  # SQLite's pages have no checksum
            raise _damaged(key)
        return stored


def _undamaged(key: str, content: bytes, stored: StoredObject) -> ObjectContent:
    if hashlib.sha256(content).hexdigest() != stored.content_hash:
        raise _damaged(key)
    return ObjectContent(content, stored.mime_type)


def _damaged(key: str) -> ServiceError:
    return ServiceError(f"the object {key!r} is damaged on the host's disk; store it again")


def _without_password(gate: Gate) -> dict[str, Any]:
    return {name: value for name, value in gate.items() if name != "password"}


def _time_is_up(caller: Caller) -> ServiceError:
    return ServiceError("the call's time is up", plugin_id=caller.plugin_id)


def _needs_server(caller: Caller, what: str) -> ServiceError:
    return ServiceError(
        f"{what} needs a Diaryx server, and this host keeps namespaces on its own disk; the host can name a server "
        'with [server] url and [namespaces] provider = "server"',
        plugin_id=caller.plugin_id,
    )
