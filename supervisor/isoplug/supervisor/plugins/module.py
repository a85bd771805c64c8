"""What was loaded, kept where nobody else can change it.

A plugins folder is other people's: files in it are deleted, replaced, and half-written for a while by every copy. A
worker that starts again must run the very code that was loaded, so that is kept in a file of our own that has no name:
one descriptor, no memory, and nothing to sweep up when the supervisor is killed. For a plugin that is loaded asleep
that comes with the first worker, and is refused when the file has other bytes by then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from isoplug.shared.errors import LoadError, SetupError, SupervisorClosed
from isoplug.supervisor.config import Limits
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.pool import Launcher

__all__ = ["Module", "Stamp", "read_stable"]

_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


class Stamp(NamedTuple):
    """What changes when a file does, without reading it. A copy that is under way changes it with every write."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Follows symbolic links. None when there is nothing to look at."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_stable(path: Path, max_bytes: int) -> tuple[bytes, Stamp]:
    """The content, and its stamp. Raises OSError as ``read_bounded``; ``EBUSY`` when somebody is writing to it."""
    before = Stamp.of(path)
    data = read_bounded(path, max_bytes)
    if before is None or before != Stamp.of(path) or before.size != len(data):
        raise OSError(errno.EBUSY, "it changes while it is read; wait until it is whole", os.fspath(path))
    return data, before


class Module:
    """A module as it was loaded. Thread-safe.

    ``stamp`` is that of the file that it was read from; whoever finds the same bytes under another one sets it anew.
    Its workers are forked from ``template``.
    """

    def __init__(
        self, sha256: str, source: Path, stamp: Stamp, folder: Path, launcher: Launcher, name: str, limits: Limits
    ) -> None:
        """``folder`` is for the copy, which is made of ``source`` unless ``keep`` comes first. ``name`` is for
        messages."""
        self.sha256 = sha256
        self.source = source
        self.stamp = stamp
        self._folder = folder
        self._max_bytes = limits.wasm_module
        self._lock = threading.Lock()  # a closed descriptor's number may name another file at once
        self._descriptor: int | None = None
        self._is_closed = False
        self.template = launcher.template(name, lambda: self.read(name), limits)

    def keep(self, wasm: bytes) -> None:
        """Make the copy. Raises SetupError when there is no room for it."""
        with self._lock:
            self._keep(wasm)

    def read(self, plugin_id: str) -> bytes:
        """The bytes that were loaded. Raises LoadError when the copy, or what it is to be made of, is something else,
        SetupError when there is no room for one, SupervisorClosed after ``close``."""
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(plugin_id)
            if self._descriptor is None:
                wasm = self._fetch(plugin_id)
                self._keep(wasm)
                return wasm
            with open(self._descriptor, "rb", closefd=False) as stream:
                stream.seek(0)
                wasm = stream.read()
        if hashlib.sha256(wasm).hexdigest() != self.sha256:
            raise LoadError(
                f"the private copy of plugin {plugin_id!r} was damaged; check the disk, then unload and load it again",
                plugin_id=plugin_id,
            )
        return wasm

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
        self.template.close()

    # --- with the lock held ---------------------------------------------------------------------------------------

    def _keep(self, wasm: bytes) -> None:
        try:
            descriptor = _unnamed_file(self._folder)
            try:
                with open(descriptor, "wb", closefd=False) as stream:
                    stream.write(wasm)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise SetupError(
                f"cannot keep a copy of {self.source} in {self._folder}: {reason(error)}; make room there"
            ) from error
        self._descriptor = descriptor

    def _fetch(self, plugin_id: str) -> bytes:
        try:
            wasm, _ = read_stable(self.source, self._max_bytes)
        except (OSError, ValueError) as error:
            raise LoadError(
                f"plugin {plugin_id!r} cannot be loaded: {self.source} cannot be read any more: {reason(error)}",
                plugin_id=plugin_id,
            ) from error
        if hashlib.sha256(wasm).hexdigest() != self.sha256:
            raise LoadError(
                f"plugin {plugin_id!r} cannot be loaded: {self.source} has changed since the folder was looked through",
                plugin_id=plugin_id,
            )
        return wasm


def _unnamed_file(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    descriptor, name = tempfile.mkstemp(prefix=".isoplug-module-", dir=folder)
    os.unlink(name)
    return descriptor
