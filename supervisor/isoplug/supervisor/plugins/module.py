"""What was loaded, kept where nobody else can change it.

A plugins folder is other people's: files in it are deleted, replaced, and half-written for a while by every copy. A
worker that starts again must run the very code that was loaded, so that is kept in a file of our own that has no name:
one descriptor, no memory, and nothing to sweep up when the supervisor is killed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from isoplug.shared.errors import LoadError, SupervisorClosed
from isoplug.supervisor.config import Limits
from isoplug.supervisor.files import read_bounded
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

    def __init__(self, wasm: bytes, stamp: Stamp, folder: Path, launcher: Launcher, name: str, limits: Limits) -> None:
        """Keeps a copy in ``folder``. Raises OSError when there is no room for it. ``name`` is for messages."""
        self.sha256 = hashlib.sha256(wasm).hexdigest()
        self.stamp = stamp
        self._lock = threading.Lock()  # a closed descriptor's number may name another file at once
        self._descriptor = _unnamed_file(folder)
        self._is_closed = False
        try:
            with open(self._descriptor, "wb", closefd=False) as stream:
                stream.write(wasm)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.template = launcher.template(name, lambda: self.read(name), limits)

    def read(self, plugin_id: str) -> bytes:
        """The bytes that were loaded. Raises LoadError when the copy is not what was written, SupervisorClosed after
        ``close``."""
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(plugin_id)
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
            os.close(self._descriptor)
        self.template.close()


def _unnamed_file(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    descriptor, name = tempfile.mkstemp(prefix=".isoplug-module-", dir=folder)
    os.unlink(name)
    return descriptor
