"""A folder of this process alone, and the sweeping up after processes that were killed.

A folder belongs to whoever holds the lock on the file in it. The kernel lets go of a lock when its holder dies, however
it dies, so a folder whose lock is free is litter, and the next one that is made beside it removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from isoplug.shared.errors import SetupError
from isoplug.shared.folders import remove_folder
from isoplug.supervisor.files import reason

__all__ = ["PrivateFolder"]

_LOCK: Final = "lock"
_NEW_LOCK: Final = "lock.new"
#: What tempfile adds to a prefix.
_ADDED: Final = "[a-z0-9_]{8}"


class PrivateFolder:
    """A 0700 folder. A context manager that gives its path; leaving it removes the folder, as ``close`` does. Nothing
    in it may be called ``lock``."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def make(cls, prefix: str, bases: Sequence[str] | None = None) -> Self:
        """In the first of ``bases`` that takes one, by default the temporary folder. What is left there of others with
        the same ``prefix`` is removed. Raises SetupError."""
        problems = []
        for base in _temporary() if bases is None else bases:
            _sweep(base, prefix)
            try:
                path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            except OSError as error:
                problems.append(f"{base}: {reason(error)}")
                continue
            try:
                return cls(path, _first_locked(path))
            except OSError as error:
                remove_folder(path)
                raise SetupError(f"cannot make a lock in {path}: {reason(error)}; free descriptors or disk") from error
        raise SetupError(
            f"no place for a private folder: {'; '.join(problems) or 'there is no temporary folder'}; name a folder in "
            "TMPDIR that can be written to"
        )

    def close(self) -> None:
        os.close(self._lock_fd)  # first: the host may have no other descriptor for the removal
        remove_folder(self.path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def _temporary() -> list[str]:
    try:
        return [tempfile.gettempdir()]
    except FileNotFoundError:  # not one of the usual places can be written to
        return []


def _sweep(base: str, prefix: str) -> None:
    """Remove this user's folders in ``base`` whose owner is dead. A folder without a lock is just being made."""
    name_of_one = re.compile(re.escape(prefix) + _ADDED)
    try:
        names = [name for name in os.listdir(base) if name_of_one.fullmatch(name)]
    except OSError:
        return
    for name in names:
        folder = Path(base, name)
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock_fd = _locked(folder / _LOCK, 0)
            remove_folder(folder)
            os.close(lock_fd)


def _first_locked(folder: Path) -> int:
    """The lock gets its name when it is held: between the two another would take it, and remove the folder."""
    lock_fd = _locked(folder / _NEW_LOCK, os.O_CREAT | os.O_EXCL)
    try:
        os.rename(folder / _NEW_LOCK, folder / _LOCK)
    except OSError:
        os.close(lock_fd)
        raise
    return lock_fd


def _locked(path: Path, creation: int) -> int:
    """A descriptor that holds the lock. Raises OSError when there is no such file, or another holds it."""
    lock_fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | creation, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        raise
    return lock_fd
