"""The contents of objects: one file each in a private folder, under names that mean nothing.

A file is written whole before the database names it and removed after the database has forgotten it, so what the
database names is always there. A crash in between leaves a file that nobody names; such files are removed by the next
supervisor that finds itself alone on the folder. That is what the folder's lock tells: everyone holds it shared, and
the kernel drops it with its holder, however that ends.

Names begin with the id of the database. A damaged one may be moved away, be replaced by a new one and come back after
all: files of another database are not ours to remove.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.files import TEMPORARY_PREFIX, put, read_bounded, reason, sync_directory
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["STORE_ID", "ObjectFiles"]

_log = get_logger(__name__)

STORE_ID: Final = re.compile(r"[0-9a-f]{16}")
"""What a database is called in the names of its files."""

_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ObjectFiles:
    """Thread-safe; several processes may share the folder.

    Args:
        folder: made with mode 0700 when missing; its parent exists.
        store_id: the database's.
        in_use: the names of all files that the database names, asked for when nobody else has the folder.

    Raises:
        SetupError: the folder cannot be made, opened or locked.
    """

    def __init__(self, folder: Path, store_id: str, in_use: Callable[[], Set[str]]) -> None:
        self._folder = folder
        self._own_prefix = f"{store_id}-"
        try:
            _make(folder)
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError(
                f"cannot open the folder of objects {str(folder)!r}: {reason(error)}; make it a folder of this user, "
                "or choose another state_dir="
            ) from error
        self._is_open = True
        self._closing = threading.Lock()  # around the descriptor: its number must not be reused meanwhile
        try:
            self._lock(in_use)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise SetupError(
                    f"cannot lock the folder of objects {str(folder)!r}: {reason(error)}; choose a state_dir= on a "
                    "local disk"
                ) from error
            raise

    def write(self, content: bytes) -> str:
        """A new file, durable when this returns; its name. Raises ServiceError, and then there is none."""
        name = f"{self._own_prefix}{secrets.token_hex(16)}"
        try:
            with self._opened() as descriptor:
                put(descriptor, name, content, old=None, new_mode=0o600, exclusive=True)
        except OSError as error:
            advice = "free space on that disk" if error.errno in _DISK_IS_FULL else "check the disk"
            raise ServiceError(f"the host cannot store the object: {reason(error)}; {advice}") from error
        return name

    def read(self, name: str, size_bytes: int) -> bytes | None:
        """The content; None when there is no such file. Raises ServiceError."""
        try:
            return read_bounded(self._folder / name, size_bytes)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # the latter: a NUL in a damaged name
            raise ServiceError(f"the host cannot read the object: {reason(error)}") from error

    def remove(self, name: str) -> None:
        """What cannot be removed now stays until the next supervisor starts."""
        try:
            with self._opened() as descriptor:
                os.unlink(name, dir_fd=descriptor)
        except (OSError, ServiceError) as error:
            _log.warning("object_file.not_removed", file=name, reason=str(error))

    def close(self) -> None:
        """Operations in progress end as if it were open. May be called again."""
        with self._closing:
            if self._is_open:
                self._is_open = False
                os.close(self._descriptor)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with self._closing:
            if not self._is_open:
                raise ServiceError("the folder of objects is closed")
            descriptor = os.dup(self._descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, in_use: Callable[[], Set[str]]) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others are at work; files that nobody names yet may be theirs
        else:
            self._sweep(in_use())
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # waits only for another one's sweep

    def _sweep(self, in_use: Set[str]) -> None:
        foreign = 0
        for name in os.listdir(self._descriptor):
            if not name.startswith((self._own_prefix, TEMPORARY_PREFIX)):
                foreign += 1
            elif name not in in_use:
                _log.info("object_file.left_over", file=name)
                self.remove(name)
        if foreign:
            _log.warning("object_files.of_another_database", folder=str(self._folder), files=foreign)


def _make(folder: Path) -> None:
    """Make the folder when it is missing, durably: what is synced into it later would go with its name."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(parent)
    finally:
        os.close(parent)
