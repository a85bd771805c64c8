"""The door to the workspace's files: nothing outside the workspace can be reached through it.

Confinement does not rest on comparing path strings. Every operation starts at one descriptor of the root and
walks component by component with `openat(O_NOFOLLOW | O_DIRECTORY)`, so that what was checked is what is
used, also when somebody swaps a directory for a symbolic link in between. House rules, each with its reason:

* **Symbolic links are refused, also those that stay inside.** A link lets one name stand for another, and a
  rule that excludes the one would not exclude the other.
* **One spelling per file.** Where the kernel folds case or shortens names (vfat, ext4 with casefold), a name
  that is not spelled as in its directory is refused, for the same reason.
* **Only regular files with a single link are opened**: another link may be a name outside.
* **Writes replace, they never modify.** The content goes to an unnamed file in the same directory, which is
  synced, named and renamed. A reader sees the old file or the new one. Mode and, where allowed, owner of the
  old file are kept; extended attributes are not.
* **Every OSError is translated here**, into `ServiceError` with the workspace-relative path; guests see these
  texts.

`FileSystem` is what the rest of the supervisor needs; hosts may bring their own. Permissions and the root
index are not known here (see `permissions` and `rootindex`).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.files import put, sync_directory
from isoplug.supervisor.workspace.path import WorkspacePath, components, is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from _typeshed import WriteableBuffer

__all__ = ["DirectoryEntry", "FileStat", "FileSystem", "WorkspaceFilesystem"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_EXISTS: Final = "it exists already"
MAX_DEPTH: Final = 100
"""Of folders that a guest may make: more than a person does, fewer than recursive tools choke on (``rglob``: 1,000)."""
_OPEN_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of a file or directory. ``identity`` is (device, inode), or None where a host has no such
    thing."""

    is_directory: bool
    size_bytes: int
    modified_at_ms: int
    identity: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, order=True)
class DirectoryEntry:
    name: str
    is_directory: bool


class FileSystem(Protocol):
    """Files of one workspace. Every failure is a `ServiceError` whose text a guest may see."""

    def open(self, path: WorkspacePath) -> BinaryIO:
        """The file's bytes, for reading; the caller closes it."""
        ...

    def write(self, path: WorkspacePath, data: bytes, *, replace: bool = True) -> None:
        """Create the file, with its parent directories, or ``replace`` it, in one step. Without ``replace`` a file that
        exists, also one made just now, is left alone and ServiceError raised."""
        ...

    def delete(self, path: WorkspacePath) -> None:
        """Remove the file; a directory is refused."""
        ...

    def stat(self, path: WorkspacePath) -> FileStat | None:
        """None when there is no such file or directory."""
        ...

    def children(self, path: WorkspacePath) -> list[DirectoryEntry]:
        """Files and directories directly in the directory, sorted by name."""
        ...


class WorkspaceFilesystem:
    """The workspace directory on disk; see the module for its rules. Safe to use from several threads.

    Args:
        root: the workspace; may itself be named through symbolic links. It is opened once: when it is renamed
            later, this object stays with the renamed directory.
        closed_to_writes: files or directories that guests may not write to, create or delete in, such as the
            folder of the plugins. They are recognised by name and by identity (a bind mount, a renamed
            directory).

    Raises:
        SetupError: ``root`` is not a directory that can be read.
    """

    def __init__(self, root: Path, closed_to_writes: Sequence[Path] = ()) -> None:
        try:
            self._root_directory = _Root(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except (OSError, ValueError) as error:
            raise SetupError(f"the workspace {str(root)!r} is not a directory that can be opened: {error}") from error
        self._base = components(os.path.realpath(root))
        self._closed_paths = tuple(closed_to_writes)
        self._closed_parts = tuple(_parts_below(self._base, path) for path in closed_to_writes)

    def close_to_writes(self, path: Path) -> None:
        """One more place for ``closed_to_writes``, when it lies in the workspace. May be repeated."""
        parts = _parts_below(self._base, path)
        if parts is not None and parts not in self._closed_parts:
            self._closed_paths += (path,)
            self._closed_parts += (parts,)

    def open(self, path: WorkspacePath) -> BinaryIO:
        """A regular file with a single link, for reading from its start.

        Raises:
            ServiceError: missing, a directory, a symbolic link, a special file, a hard link, or not readable.
        """
        with _Door("read", path), self._directory_of(path) as directory:
            return _open_regular(directory, path.name)

    def write(self, path: WorkspacePath, data: bytes, *, replace: bool = True) -> None:
        """Create or replace a regular file; on failure the old content is untouched and nothing is left
        behind (except, perhaps, parent directories).

        Raises:
            ServiceError: a parent or the file itself is a symbolic link or a special file, the file is a
                directory or read-only, the place is closed to guests, the disk said no, the path is deeper than
                100 folders, or the file exists and ``replace`` is False.
        """
        with _Door("write", path), self._directory_of(path, writing=True, create=True) as directory:
            old = _lstat(directory, path.name)
            if old is not None and not replace:
                raise _Refused(_EXISTS)
            if old is not None:
                self._require_replaceable(directory, path.name, old)
                if not old.st_mode & 0o222:
                    raise _Refused("it is read-only")
            try:
                put(directory, path.name, data, old=old, new_mode=0o666, exclusive=not replace)
            except FileExistsError:
                raise _Refused(_EXISTS) from None

    def delete(self, path: WorkspacePath) -> None:
        """Remove a regular file. Raises ServiceError when it is missing or anything else."""
        with _Door("delete", path), self._directory_of(path, writing=True) as directory:
            old = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
            self._require_replaceable(directory, path.name, old)
            os.unlink(path.name, dir_fd=directory)
            sync_directory(directory)

    def stat(self, path: WorkspacePath) -> FileStat | None:
        """None when the path is missing, is reached through a symbolic link, or is a link or special file
        itself."""
        with _Door("look up", path):
            try:
                if path.is_root:
                    with self._directory(()) as directory:
                        return _file_stat(os.fstat(directory))
                with self._directory_of(path) as directory:
                    status = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
                    _require_spelling(directory, path.name, status)
                    return _file_stat(status)
            except (FileNotFoundError, NotADirectoryError, _Refused):
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return None
                raise

    def children(self, path: WorkspacePath) -> list[DirectoryEntry]:
        """Regular files and directories; names that no `WorkspacePath` can hold are left out, as links and
        special files are. Raises ServiceError when ``path`` is not a directory."""
        with (
            _Door("list", path),
            self._directory(path.parts) as directory,
            _listing(directory) as listing,
            os.scandir(listing) as entries,
        ):
            return sorted(found for entry in entries if (found := _directory_entry(entry)) is not None)

    def close(self) -> None:
        """Give up the root; later calls raise ServiceError. Files opened before stay open. May be
        repeated."""
        self._root_directory.close()

    def __enter__(self) -> WorkspaceFilesystem:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- walking --------------------------------------------------------------------------------------------

    def _directory(self, parts: tuple[str, ...], *, writing: bool = False, create: bool = False) -> _Walk:
        return _Walk(self._root_directory, parts, self._closed_identities() if writing else frozenset(), create=create)

    def _directory_of(self, path: WorkspacePath, *, writing: bool = False, create: bool = False) -> _Walk:
        if path.is_root:
            raise _Refused("it is the workspace itself, not a file")
        if writing and any(_is_prefix(parts, path.parts) for parts in self._closed_parts if parts is not None):
            raise _Refused(_CLOSED)
        if create and len(path.parts) > MAX_DEPTH:
            raise _Refused(f"it is deeper than {MAX_DEPTH} folders")
        return self._directory(path.parts[:-1], writing=writing, create=create)

    # --- what may be written --------------------------------------------------------------------------------

    def _closed_identities(self) -> frozenset[tuple[int, int]]:
        # Looked up at each write: the host may have replaced the directory since.
        identities = set()
        for path in self._closed_paths:
            with suppress(OSError, ValueError):
                identities.add(_identity(os.stat(path)))
        return frozenset(identities)

    def _require_replaceable(self, directory: int, name: str, status: os.stat_result) -> None:
        _require_spelling(directory, name, status)
        _require_regular(status)
        if _identity(status) in self._closed_identities():
            raise _Refused(_CLOSED)


_CLOSED: Final = "plugins may not write there"


class _Refused(Exception):
    """A house rule says no; the text says which. Never leaves this module."""


class _Door:
    """Translates what the kernel and the house rules say into `ServiceError`, naming the path as guests know it. A
    class, like `_Walk`: every host call that names a file passes both, and generators cost three times as much."""

    __slots__ = ("_path", "_verb")

    def __init__(self, verb: str, path: WorkspacePath) -> None:
        self._verb, self._path = verb, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        match error:
            case None:
                return
            case _Refused():
                problem = str(error)
            case OSError():
                problem = _reason(error)
            case ValueError():  # a name that the file system's encoding cannot express
                problem = "the name cannot be used on this system"
            case _:
                return
        raise ServiceError(f"cannot {self._verb} {str(self._path)!r}: {problem}") from error


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "no such file or directory"
        case errno.ELOOP:
            return "it is a symbolic link, and links are not followed"
        case errno.ENOTDIR:
            return "a part of the path is not a directory (symbolic links are not followed)"
        case errno.EISDIR:
            return "it is a directory"
        case None:
            return type(error).__name__
        case number:
            return os.strerror(number)


# --- walking --------------------------------------------------------------------------------------------------


class _Root:
    """The workspace's own directory. Closed when nobody is in it any more, since its number must not be reused
    meanwhile.

    Nobody reads its entries: whoever wants them opens it anew (`_listing`), since two readers of one open file would
    share a position.
    """

    __slots__ = ("_fd", "_is_open", "_lock", "_visitors")

    def __init__(self, fd: int) -> None:
        self._fd, self._is_open, self._visitors = fd, True, 0
        self._lock = threading.Lock()

    def enter(self) -> int:
        """Its descriptor, until ``leave``. Raises ServiceError."""
        with self._lock:
            if not self._is_open:
                raise ServiceError("the workspace is closed")
            self._visitors += 1
            return self._fd

    def leave(self) -> None:
        with self._lock:
            self._visitors -= 1
            if not self._is_open and not self._visitors:
                os.close(self._fd)

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                if not self._visitors:
                    os.close(self._fd)


class _Walk:
    """Context manager: a descriptor of the directory ``parts``, reached from the root without following a link. Raises
    _Refused for the directories ``closed``, what the kernel says, and ServiceError."""

    __slots__ = ("_closed", "_create", "_directory", "_parts", "_root")

    def __init__(
        self, root: _Root, parts: tuple[str, ...], closed: frozenset[tuple[int, int]], *, create: bool
    ) -> None:
        self._root, self._parts, self._closed, self._create = root, parts, closed, create
        self._directory: int | None = None  # None: the root, which others use as well

    def __enter__(self) -> int:
        directory = self._root.enter()
        try:
            _require_open(directory, self._closed)
            for name in self._parts:
                directory = _enter(directory, name, create=self._create)
                parent, self._directory = self._directory, directory
                if parent is not None:
                    os.close(parent)
                _require_open(directory, self._closed)
        except BaseException:
            self.__exit__()
            raise
        return directory

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            os.close(self._directory)
        self._root.leave()


# --- one step of the walk -----------------------------------------------------------------------------------


def _enter(directory: int, name: str, *, create: bool) -> int:
    try:
        child = os.open(name, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        if not create:
            raise
        # When another writer was faster, whatever it made is opened without following, like anything else.
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=directory)
            sync_directory(directory)
        child = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        _require_spelling(directory, name, os.fstat(child))
    except BaseException:
        os.close(child)
        raise
    return child


def _require_open(directory: int, closed: frozenset[tuple[int, int]]) -> None:
    if closed and _identity(os.fstat(directory)) in closed:
        raise _Refused(_CLOSED)


def _require_spelling(directory: int, name: str, status: os.stat_result) -> None:
    """Refuse a second spelling of one file. Case-folding file systems are found out by asking for the other
    case; vfat also answers to short names (``PRIVAT~1``) and ignores dots and blanks at the end."""
    suspicious = "~" in name or name.endswith((".", " "))
    if not suspicious and (other := name.swapcase()) != name:
        twin = _lstat(directory, other)
        suspicious = twin is not None and _identity(twin) == _identity(status)
    if suspicious and name not in _names(directory):
        raise _Refused("it is spelled differently on disk")


def _names(directory: int) -> list[str]:
    with _listing(directory) as listing:
        return os.listdir(listing)


@contextmanager
def _listing(directory: int) -> Iterator[int]:
    """A descriptor of the same directory to read its entries from, with a position of its own."""
    listing = os.open(".", _DIRECTORY, dir_fd=directory)
    try:
        yield listing
    finally:
        os.close(listing)


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _Refused("it is a directory")
    if stat.S_ISLNK(status.st_mode):
        raise _Refused("it is a symbolic link, and links are not followed")
    if not stat.S_ISREG(status.st_mode):
        raise _Refused("it is not a regular file")


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # swapping the case may lengthen a name
            return None
        raise


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _file_stat(status: os.stat_result) -> FileStat | None:
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return None
    return FileStat(is_directory, status.st_size, status.st_mtime_ns // 1_000_000, _identity(status))


def _directory_entry(entry: os.DirEntry[str]) -> DirectoryEntry | None:
    name = entry.name
    if "\\" in name or is_temporary(name):
        return None
    try:
        name.encode()
        if entry.is_dir(follow_symlinks=False):
            return DirectoryEntry(name, True)
        return DirectoryEntry(name, False) if entry.is_file(follow_symlinks=False) else None
    except (UnicodeEncodeError, OSError):  # not UTF-8; or it vanished while we looked
        return None


# --- reading ------------------------------------------------------------------------------------------------


class _Raw(io.FileIO):
    """A file whose late failures (a disk error, a lost network share) are typed too."""

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise ServiceError(f"cannot read on: {_reason(error)}") from error

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise ServiceError(f"cannot read on: {_reason(error)}") from error


class _Reader(io.BufferedReader):
    """Whoever wants the whole of a file asks for as much as would still fit, and Python sets that much aside before it
    reads. Here it is no more than there is, as long as the file does not grow."""

    def __init__(self, raw: _Raw, size_bytes: int) -> None:
        super().__init__(raw)
        self._size_bytes = size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size <= self._size_bytes:
            return super().read(size)
        content = super().read(self._size_bytes + 1)
        return content if len(content) <= self._size_bytes else content + super().read(size - len(content))


def _open_regular(directory: int, name: str) -> _Reader:
    """Open a regular file with one link.

    The type is looked at *before* opening, since opening a device may have effects, and after, since the name
    may stand for another file by then. The link count is the one seen before: it was 1 while the file had a
    name in the workspace. It may be 0 afterwards, when a writer has just replaced the file. When the two
    looks are of different files, look again.

    Names and link counts cannot be had in one step, so a hard link that somebody makes and removes within
    these looks may be read. Guests cannot make links; a process that can might as well copy the file.
    """
    for _ in range(_OPEN_ATTEMPTS):
        before = os.stat(name, dir_fd=directory, follow_symlinks=False)
        _require_regular(before)
        if before.st_nlink > 1:
            raise _Refused("it has a second name (hard link), which may be outside the workspace")
        if before.st_nlink == 0:  # replaced between its being found and its being looked at
            continue
        _require_spelling(directory, name, before)
        try:
            descriptor = os.open(name, _FILE, dir_fd=directory)
        except FileNotFoundError:
            continue
        opened = os.fstat(descriptor)
        if _identity(opened) == _identity(before) and stat.S_ISREG(opened.st_mode) and opened.st_nlink <= 1:
            return _Reader(_Raw(descriptor, "rb"), opened.st_size)
        os.close(descriptor)
    raise _Refused("it is being replaced again and again")


# --- places closed to guests --------------------------------------------------------------------------------


def _parts_below(base: tuple[str, ...], path: Path) -> tuple[str, ...] | None:
    """``path`` as components below those of ``base``, None when it is not inside; works for what does not exist
    yet."""
    parts = components(os.path.realpath(path))
    return parts[len(base) :] if parts[: len(base)] == base else None


def _is_prefix(prefix: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    return tuple(map(str.casefold, parts[: len(prefix)])) == tuple(map(str.casefold, prefix))
