"""Where a service is found: the lock and the socket in its state folder.

The lock is the kernel's (``flock``), so it is free as soon as its holder is dead, however it died; a socket without a
held lock is litter. Both are reached through a descriptor of the folder, because the kernel allows 107 bytes for a
socket's path and a state folder may have a longer one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import closing, suppress
from pathlib import Path

from isoplug.shared.errors import PermissionDenied, PluginError, SetupError
from isoplug.supervisor.files import reason

__all__ = ["CONNECTIONS", "NotRunning", "Place", "connect"]

#: At the same time.
CONNECTIONS = 64

_SOCKET = "control.sock"
_LOCK = "service.lock"


class NotRunning(PluginError):
    """There is no service for this state folder, or it cannot be reached now."""

    code = "not_running"


class Place:
    """A state folder that is served by this process alone. ``close`` gives it back."""

    def __init__(self, folder: Path, folder_fd: int, lock_fd: int) -> None:
        self.folder = folder
        self._folder_fd, self._lock_fd = folder_fd, lock_fd

    @classmethod
    def take(cls, folder: Path) -> Place:
        """Raises SetupError: another service has it (its pid is named), or the folder cannot be used."""
        try:
            folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                lock_fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
            except OSError:
                os.close(folder_fd)
                raise
        except OSError as error:
            raise SetupError(
                f"cannot make a lock in the state folder {str(folder)!r}: {reason(error)}; make it writable, or choose "
                "another one with --state"
            ) from error
        place = cls(folder, folder_fd, lock_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _pid_in(lock_fd)
            place._let_go()
            raise SetupError(
                f"the state folder {str(folder)!r} is served already, by process {holder}; end that one (isoplug "
                "drain), or choose another folder with --state"
            ) from error
        try:
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            place._let_go()
            raise SetupError(
                f"cannot write to the state folder {str(folder)!r}: {reason(error)}; free space, or choose another one "
                "with --state"
            ) from error
        return place

    def listen(self) -> socket.socket:
        """The control socket, for its owner alone (0600). One that a killed service has left is replaced."""
        with suppress(FileNotFoundError):
            os.unlink(_SOCKET, dir_fd=self._folder_fd)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            listener.bind(_address(self._folder_fd))
            os.chmod(_SOCKET, 0o600, dir_fd=self._folder_fd)
            listener.listen(CONNECTIONS)  # only now: nobody was let in before the mode was right
        except OSError as error:
            listener.close()
            raise SetupError(
                f"cannot make the control socket in {str(self.folder)!r}: {reason(error)}; choose a state folder on a "
                "local disk with --state"
            ) from error
        return listener

    def close(self) -> None:
        """The socket first: without the lock it might be another's by now."""
        with suppress(OSError):
            os.unlink(_SOCKET, dir_fd=self._folder_fd)
        with suppress(OSError):  # the disk may be full or gone
            os.ftruncate(self._lock_fd, 0)
        self._let_go()

    def _let_go(self) -> None:
        os.close(self._lock_fd)
        os.close(self._folder_fd)


def connect(folder: Path, timeout_seconds: float) -> socket.socket:
    """A connection to the service of ``folder``. Raises NotRunning, PermissionDenied."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # A connection waits in the kernel for the service; only SO_SNDTIMEO bounds a wait for a place to wait in.
    seconds, fraction = divmod(timeout_seconds, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(fraction * 1e6)))
    try:
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(_address(folder_fd))
            connection.settimeout(timeout_seconds)
        finally:
            os.close(folder_fd)
    except BlockingIOError as error:
        connection.close()
        raise NotRunning(f"the service for state folder {str(folder)!r} takes no connections; see its log") from error
    except PermissionError as error:
        connection.close()
        raise PermissionDenied(
            "", f"the state folder {str(folder)!r} belongs to another user; run this as that user, or as root"
        ) from error
    except OSError as error:
        connection.close()
        raise _absent(folder) from error
    return connection


def _address(folder_fd: int) -> str:
    return f"/proc/self/fd/{folder_fd}/{_SOCKET}"


def _absent(folder: Path) -> NotRunning:
    with suppress(OSError):
        lock_fd = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with closing(os.fdopen(lock_fd)):
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return NotRunning(
                    f"the service of state folder {str(folder)!r}, process {_pid_in(lock_fd)}, does not listen: it is "
                    "just starting, or ending; try again"
                )
    return NotRunning(
        f"no service for state folder {str(folder)!r}; start one with isoplug run and the same options, or name its "
        "folder with --state"
    )


def _pid_in(lock_fd: int) -> str:
    text = os.pread(lock_fd, 20, 0).strip()
    return text.decode() if text.isdigit() else "unknown"
