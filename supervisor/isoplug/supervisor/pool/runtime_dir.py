"""The private folder of one supervisor, for what WASI programs write and for templates to be locked into, and the
sweeping up after those that were killed.

A folder belongs to whoever holds the lock on the file in it. The kernel lets go of a lock when its holder dies, however
it dies, so a folder whose lock is free is litter and the next start removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isoplug.shared.errors import SetupError
from isoplug.shared.folders import remove_folder

__all__ = ["RuntimeDir"]

_PREFIX = "isoplug-"
_NAME = re.compile(r"isoplug-[a-z0-9_]{8}")  # what tempfile makes of the prefix
_LOCK = "lock"


class RuntimeDir:
    """A 0700 folder; ``close`` removes it."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def make(cls, bases: Sequence[str]) -> RuntimeDir:
        """In the first of ``bases`` that takes one. Raises SetupError."""
        for base in bases:
            _sweep(base)
            try:
                path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            except OSError:
                continue
            try:
                return cls(path, _locked(path, os.O_CREAT | os.O_EXCL))
            except OSError as error:
                remove_folder(path)
                raise SetupError(f"cannot make a lock in {path}: {error.strerror}; free descriptors or disk") from error
        raise SetupError(
            "no place for a runtime folder: XDG_RUNTIME_DIR, TMPDIR and /tmp are missing or not writable; make one of "
            "them a writable folder"
        )

    def close(self) -> None:
        os.close(self._lock_fd)  # first: the host may have no other descriptor for the removal
        remove_folder(self.path)


def _sweep(base: str) -> None:
    """Remove this user's folders in ``base`` whose supervisor is dead. A folder without a lock is just being made."""
    try:
        names = [name for name in os.listdir(base) if _NAME.fullmatch(name)]
    except OSError:
        return
    for name in names:
        folder = Path(base, name)
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock_fd = _locked(folder, 0)
            remove_folder(folder)
            os.close(lock_fd)


def _locked(folder: Path, creation: int) -> int:
    """A descriptor that holds the folder's lock. Raises OSError when there is no lock file, or another holds it."""
    lock_fd = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | creation, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        raise
    return lock_fd
