"""The folder that one program sees as its root. The supervisor fills it before the run, measures it during the run,
reads from it afterwards and removes it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Self

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.shared.folders import remove_folder
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.files import reason
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.wasi.program import MAX_ENTRIES
from isoplug.supervisor.workspace import WorkspaceFilesystem, WorkspacePath

__all__ = ["Scratch"]

_log = get_logger(__name__)

#: What ``st_blocks`` counts, whatever the file system's own blocks are (stat(2)).
_BLOCK_BYTES = 512
#: What ``remove_folder`` has open at most.
_SPARES = 4


class Scratch:
    """A private folder; a context manager that removes it with everything in it."""

    def __init__(self, base: Path) -> None:
        """Raises ServiceError when none can be made."""
        try:
            self.path = Path(tempfile.mkdtemp(prefix="wasi-", dir=base))
        except OSError as error:
            raise _cannot_make(error) from error
        try:
            self._device = self.path.stat().st_dev
            self._spares = self._put_aside()
        except OSError as error:
            os.rmdir(self.path)
            raise _cannot_make(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spares.close()
        remove_folder(self.path)

    def fill(self, files: Mapping[WorkspacePath, bytes], deadline: Deadline) -> None:
        """Write ``files``. Nobody else knows the folder yet, so nothing can be in their way but each other.

        Raises:
            ServiceError: a name stands for a file and a folder, the disk says no, or takes too long.
        """
        for path, content in files.items():
            if deadline.has_passed:
                raise ServiceError("the call's time is up before the program has all its files")
            try:
                place = self.path.joinpath(*path.parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            except OSError as error:
                raise ServiceError(f"cannot write {str(path)!r} for the program: {reason(error)}") from error

    def require_bounds(self, pid: int, max_bytes: int) -> None:
        """Raises ResourceLimitExceeded when the program takes more of the disk than ``max_bytes``, or has made more
        than ``MAX_ENTRIES`` files. ``pid`` is its process, which may keep files open that it has deleted."""
        used_bytes = 0
        for number, status in enumerate(chain(self._deleted_but_open(pid), _below(self.path))):
            if number >= MAX_ENTRIES:
                raise ResourceLimitExceeded(None, f"the program made more than {MAX_ENTRIES} files and folders")
            used_bytes += status.st_blocks * _BLOCK_BYTES
            if used_bytes > max_bytes:
                raise ResourceLimitExceeded(
                    None, "the size of the program's files in bytes", used_bytes, max_bytes, "see wasi.scratch"
                )

    def collect(self, outputs: Mapping[str, WorkspacePath], max_bytes: int) -> dict[str, bytes]:
        """The regular files among ``outputs``; what is missing, a folder or a link is left out.

        Raises:
            ResourceLimitExceeded: they are larger than ``max_bytes`` together.
        """
        found: dict[str, bytes] = {}
        left = max_bytes
        with self._confined() as confined:
            for name, path in outputs.items():
                try:
                    with confined.open(path) as file:
                        content = file.read(left + 1)
                except ServiceError as error:
                    _log.debug("wasi.output_left_out", reason=str(error))
                    continue
                left -= len(content)
                if left < 0:
                    raise ResourceLimitExceeded(
                        None, f"the program's output files are larger than {max_bytes} bytes together; see limits.frame"
                    )
                found[name] = content
        return found

    def _put_aside(self) -> ExitStack:
        """Descriptors for the removal, which must not fail for want of some."""
        with ExitStack() as spares:
            for _ in range(_SPARES):
                spares.callback(os.close, os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            return spares.pop_all()

    def _confined(self) -> WorkspaceFilesystem:
        try:
            return WorkspaceFilesystem(self.path)
        except SetupError as error:  # its text names the folder
            raise ServiceError("cannot read what the program wrote; the host has no descriptor left") from error

    def _deleted_but_open(self, pid: int) -> Iterator[os.stat_result]:
        with suppress(OSError):  # it has just ended
            for entry in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{entry}")
                    is_on_disk = status.st_dev == self._device  # the runtime has files in memory as well
                    if is_on_disk and stat.S_ISREG(status.st_mode) and not status.st_nlink:
                        yield status


def _cannot_make(error: OSError) -> ServiceError:
    return ServiceError(f"cannot make a folder for the program: {reason(error)}; free disk space or descriptors")


def _below(folder: Path) -> Iterator[os.stat_result]:
    """The status of everything in the folder, at any depth, without recursion: the program may nest as it likes.

    The program goes on meanwhile. What it removes is not counted, and what it replaces by a link is not followed.
    Raises ResourceLimitExceeded for folders nested deeper than the kernel's paths are long.
    """
    top = os.path.realpath(folder)
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            with _opened(path, top) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(os.path.join(path, entry.name))
                        yield status
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ResourceLimitExceeded(None, f"the program's folders cannot be measured: {reason(error)}") from error


@contextmanager
def _opened(path: str, top: str) -> Iterator[int]:
    """Raises FileNotFoundError for what lies outside ``top``: any part of ``path`` may be a link by now."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not f"{os.readlink(f'/proc/self/fd/{directory}')}/".startswith(f"{top}/"):
            raise FileNotFoundError
        yield directory
    finally:
        os.close(directory)
