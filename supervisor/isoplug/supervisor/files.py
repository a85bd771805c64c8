"""Reading and writing whole files: bounded, never waiting for a FIFO or device, and replaced in one step.

Configuration, manifests and sidecars come by path; guests' files by the directory that ``workspace`` has confined
(``put``). All raise ``OSError`` (or ``ValueError`` for a NUL in the path); callers translate it into their own words.
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

__all__ = ["TEMPORARY_PREFIX", "put", "read_bounded", "reason", "sync_directory", "write_atomically"]

#: Names that start so are half-written files: guests can neither name nor see them.
TEMPORARY_PREFIX = ".isoplug-"

_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


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
    """``put`` by path: an existing regular file keeps its permission bits and owner, a new one gets ``new_mode``
    (less the umask). A symbolic link is replaced, never written through."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            old = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            old = None
        if old is not None and not stat.S_ISREG(old.st_mode):
            old = None
        put(directory, path.name, data, old=old, new_mode=new_mode)
    finally:
        os.close(directory)


def put(
    directory: int, name: str, data: bytes, *, old: os.stat_result | None, new_mode: int, exclusive: bool = False
) -> None:
    """Write the file ``name`` in an open directory in one step: a reader sees the old content or the new, and after a
    power cut it is one of the two. On failure nothing is left behind, and nothing changed.

    Args:
        old: the regular file that is replaced, whose permission bits and owner are kept; None for a new one.
        new_mode: of a new file, less the umask.
        exclusive: leave alone what has the name already.

    Raises:
        OSError: FileExistsError when ``exclusive``, else what the disk says.
    """
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"
    # A private file stays private while it is half-written.
    mode = new_mode if old is None else 0o600
    is_named = False
    descriptor = _open_unnamed(directory, mode)
    try:
        if descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, mode, dir_fd=directory)
            is_named = True
        if old is not None:
            _inherit(descriptor, old)
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(data)
        os.fsync(descriptor)
        if exclusive and not is_named:
            # Unlike a rename, this leaves alone what got the name in the meantime.
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)
        else:
            if not is_named:
                os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=directory, follow_symlinks=True)
                is_named = True
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            is_named = False
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if is_named:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
    sync_directory(directory)


def reason(error: OSError | ValueError | RuntimeError) -> str:
    """The words of an error without its number and file name, for messages that name the file themselves."""
    return getattr(error, "strerror", None) or str(error)


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def _open_unnamed(directory: int, mode: int) -> int | None:
    """A file without a name: a crash while it is written leaves nothing behind. None where that cannot be had."""
    try:
        os.stat("/proc/self/fd")  # how it gets its name later
        return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=directory)
    except OSError as error:
        if error.errno in _NO_UNNAMED_FILES:
            return None
        raise


def _inherit(descriptor: int, old: os.stat_result) -> None:
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    with suppress(PermissionError):  # vfat knows few modes
        os.fchmod(descriptor, old.st_mode & 0o777)  # without set-user-id: the content may be a guest's now


def sync_directory(directory: int) -> None:
    """Make the new name itself durable. Some file systems cannot sync a directory; the file is whole there too."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
