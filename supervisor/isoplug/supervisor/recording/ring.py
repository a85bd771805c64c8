"""The folder of recordings: bounded, private, shared by all supervisors over one state folder without any lock.

    recordings/20261122T103623.123456Z-test.probe-handle_command-1a2b3c4d5e6f7a8b-4711-1.isorec
    recordings/modules/<sha256>.wasm        what they are recordings of, once each

Names begin with the time and say which module is needed, so that to make room nothing has to be opened. Each
supervisor counts what it has written, and looks at the folder when that may be too much, and every few files; the
bounds may be passed in between by what others write meanwhile.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from isoplug.supervisor.files import TEMPORARY_PREFIX
from isoplug.supervisor.recording.place import remove, remove_leftovers, slug, write_whole
from isoplug.supervisor.recording.tape import Recording

__all__ = ["MODULES", "Ring"]

MODULES = "modules"

_SUFFIX = ".isorec"
_CRASHED = "-crash"
_NAME = re.compile(r".*-([0-9a-f]{16})-\d+-\d+(-crash)?\.isorec", re.DOTALL)
#: Of a module that is about to go; one that a killed supervisor leaves so goes with what is half-written.
_DOOMED = f"{TEMPORARY_PREFIX}doomed-"
#: Of the bounds: so much is freed at once, and so many files are written between two looks.
_SLACK = 16
#: Of the bytes: a module that is larger is not kept, or there would be no room for recordings of it.
_MODULE_SHARE = 2


class _Entry(NamedTuple):
    name: str
    size: int
    digest: str
    is_crash: bool


class Ring:
    """Thread-safe. At most ``max_files`` recordings, and ``max_bytes`` with their modules."""

    def __init__(self, folder: Path, max_files: int, max_bytes: int) -> None:
        self.folder = folder
        self._max_files, self._max_bytes = max_files, max_bytes
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        #: As far as it is known; a first look is due.
        self._files, self._bytes, self._until_look = 0, 0, 0
        self._known: dict[str, _Entry] = {}

    def add(self, recording: Recording, data: bytes, read_module: Callable[[], bytes]) -> Path:
        """The file that it is in. Raises OSError, and what ``read_module`` does."""
        name = self._name_of(recording)
        with self._lock:
            self._keep_module(recording.sha256, read_module)
            write_whole(self.folder, name, data)
            # Another supervisor may have found meanwhile that nobody needs the module. It looks again after it has
            # moved it away, so it has seen this recording, or this look sees that the module is gone.
            self._keep_module(recording.sha256, read_module)
            self._count(1, len(data))
        return self.folder / name

    # --- inside, within the lock ----------------------------------------------------------------------------------

    def _name_of(self, recording: Recording) -> str:
        at, microseconds = divmod(int(recording.at * 1e6), 1_000_000)
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at))
        who = f"{slug(recording.plugin_id)}-{slug(recording.call.export)}-{recording.sha256[:16]}"
        crashed = _CRASHED if recording.call.ending.is_crash else ""
        return f"{when}.{microseconds:06}Z-{who}-{os.getpid()}-{next(self._numbers)}{crashed}{_SUFFIX}"

    def _keep_module(self, sha256: str, read: Callable[[], bytes]) -> None:
        folder = self.folder / MODULES
        if (folder / f"{sha256}.wasm").exists():
            return
        wasm = read()
        if len(wasm) * _MODULE_SHARE <= self._max_bytes:
            write_whole(folder, f"{sha256}.wasm", wasm)
            self._count(0, len(wasm))

    def _count(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size
        self._until_look -= files
        if self._until_look < 0 or self._files > self._max_files or self._bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        entries = self._entries()
        modules = self._modules()
        count = len(entries)
        size = sum(entry.size for entry in entries) + sum(modules.values())
        is_full = count > self._max_files or size > self._max_bytes
        doomed = set()
        if is_full:
            most_files, most_bytes = (bound - bound // _SLACK for bound in (self._max_files, self._max_bytes))
            for entry in _by_worth(entries, most_files, most_bytes):
                if count <= most_files and size <= most_bytes:
                    break
                remove(self.folder / entry.name)
                doomed.add(entry.name)
                count, size = count - 1, size - entry.size
        kept = {entry.digest for entry in entries if entry.name not in doomed}
        for module, module_size in modules.items():
            if module[:16] not in kept:
                self._drop_module(module)
                size -= module_size
        remove_leftovers(self.folder)
        remove_leftovers(self.folder / MODULES)
        self._files, self._bytes = count, size
        self._until_look = self._max_files // _SLACK

    def _drop_module(self, sha256: str) -> None:
        """See ``add``."""
        place, aside = self.folder / MODULES / f"{sha256}.wasm", self.folder / MODULES / f"{_DOOMED}{sha256}"
        with suppress(OSError):
            os.utime(place)  # or it could look left over
            os.rename(place, aside)
            if any(entry.digest == sha256[:16] for entry in self._entries()):
                os.rename(aside, place)
            else:
                aside.unlink()

    def _entries(self) -> list[_Entry]:
        """The recordings, the oldest first; other files are none of its business. A file never changes, so only new
        ones are looked at: that takes most of the time."""
        found = {}
        with os.scandir(self.folder) as files:
            for file in files:
                entry = self._known.get(file.name)
                if entry is None and (match := _NAME.fullmatch(file.name)):
                    with suppress(OSError):  # another supervisor has removed it
                        size = file.stat(follow_symlinks=False).st_size
                        entry = _Entry(file.name, size, match[1], match[2] is not None)
                if entry is not None:
                    found[file.name] = entry
        self._known = found
        return sorted(found.values())

    def _modules(self) -> dict[str, int]:
        found = {}
        with suppress(OSError), os.scandir(self.folder / MODULES) as files:
            for file in files:
                with suppress(OSError):
                    if file.name.endswith(".wasm"):
                        found[file.name.removesuffix(".wasm")] = file.stat(follow_symlinks=False).st_size
        return found


def _by_worth(entries: list[_Entry], most_files: int, most_bytes: int) -> list[_Entry]:
    """In the order in which they go: crashes may have half of the room, beyond that the oldest ones go first; then
    calls that went well."""
    crashes = [entry for entry in entries if entry.is_crash]
    count, size, excess = len(crashes), sum(entry.size for entry in crashes), 0
    while excess < len(crashes) and (count > most_files // 2 or size > most_bytes // 2):
        count, size = count - 1, size - crashes[excess].size
        excess += 1
    return [*crashes[:excess], *(entry for entry in entries if not entry.is_crash), *crashes[excess:]]
