"""Reading and writing small files whose names are ours but whose contents, or whose kind, may be anybody's.

Used for configuration, manifests and sidecars; guests' own files go through ``workspace``. Both functions
raise ``OSError`` (or ``ValueError`` for a NUL in the path); callers translate it into their own words.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_bounded", "reason", "write_atomically"]


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most ``max_bytes``. Follows symbolic links; never waits for a FIFO
    or device.

    Raises:
        OSError: as ``open`` does; ``EINVAL`` when it is not a regular file, ``EFBIG`` when it is larger.
    """
    _check_regular(os.stat(path), path)  # before opening: opening alone can set a device going
    # O_NONBLOCK, in case a FIFO has taken the file's place by now: opening it would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor), path)
        chunks: list[bytes] = []
        left = max_bytes + 1  # one more, to tell "exactly" from "more"
        while left and (chunk := os.read(descriptor, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes", os.fspath(path))
    return b"".join(chunks)


def write_atomically(path: Path, data: bytes, *, new_mode: int = 0o600) -> None:
    """Replace the file: a reader sees the old content or the new, and after a power cut it is one of the two.

    An existing regular file keeps its permission bits, a new one gets ``new_mode``. A symbolic link is
    replaced, never written through. A kill between the two steps leaves a ``.isoplug-*.tmp`` beside the file,
    and the old content.
    """
    temporary = path.parent / f".isoplug-{secrets.token_hex(8)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(descriptor, _mode_to_keep(path, new_mode))
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def reason(error: OSError | ValueError | RuntimeError) -> str:
    """The words of an error without its number and file name, for messages that name the file themselves."""
    return getattr(error, "strerror", None) or str(error)


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def _mode_to_keep(path: Path, new_mode: int) -> int:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return new_mode
    return status.st_mode & 0o777 if stat.S_ISREG(status.st_mode) else new_mode


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. Some file systems cannot sync a folder; the file is whole there too."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
