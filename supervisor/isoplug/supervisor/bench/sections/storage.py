"""Durable writes: a value of 100 bytes, on the disk before it is acknowledged.

The bare database has what isoplug's has, so that both make the same promise: a write-ahead log,
``synchronous=FULL``, and a transaction for each write. The only module but ``database`` that imports ``sqlite3``.
"""

from __future__ import annotations

import itertools
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from isoplug.supervisor.bench.blocks import Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import ask, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.storage import SqliteStorage

__all__ = ["measure"]

_PLUGIN, _KEY, _QUOTA_BYTES = plugin_id(0), "diary", 1 << 20
_WRITES = 20
#: Two, in turn: SQLite does not write a page that stays what it was.
_VALUES = (b"x" * 100, b"y" * 100)
_ASK = ask("host_storage_set", _WRITES, *({"key": _KEY, "data": b64encode(value).decode()} for value in _VALUES))


def measure(lab: Lab) -> Sequence[Figure]:
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "ground").supervisor())
    service = SqliteStorage(lab.folder / "service.sqlite")
    lab.cleanup.callback(service.close)

    values = itertools.cycle(_VALUES)

    def alone() -> None:
        service.set(_PLUGIN, _KEY, next(values), _QUOTA_BYTES)

    def of_a_guest() -> None:
        if supervisor.call(_PLUGIN, "ask", _ASK) != b"0":
            raise AssertionError("a write was refused")

    return lab.interleaved(
        [
            Candidate(Name.BARE_SQLITE, timed(_bare(lab.folder / "bare.sqlite", lab.cleanup))),
            Candidate(Name.STORAGE, timed(alone)),
            Candidate("write, host_storage_set of a guest", timed(of_a_guest, parts=_WRITES)),
        ]
    )


def _bare(path: Path, cleanup: ExitStack) -> Callable[[], None]:
    connection = sqlite3.connect(path, isolation_level=None)
    cleanup.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (plugin TEXT, key TEXT, value BLOB, PRIMARY KEY (plugin, key))")

    values = itertools.cycle(_VALUES)

    def write() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value",
            (_PLUGIN, _KEY, next(values)),
        )
        connection.execute("COMMIT")

    return write
