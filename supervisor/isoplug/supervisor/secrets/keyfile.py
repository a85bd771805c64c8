"""A key in a file that only its owner may read.

Two processes may need the first key at once, and either may be killed at any moment. So a new key is written whole and
synced under a temporary name, then linked to its own: ``link`` refuses a name that is taken, whoever took it.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from isoplug.shared.errors import SetupError
from isoplug.supervisor.files import TEMPORARY_PREFIX, reason, sync_directory
from isoplug.supervisor.secrets.keys import new_key_text, parse_key

__all__ = ["KeyFile"]

_MAX_BYTES: Final = 1024
"""Of a key file: a key has 44 characters, white space around it is allowed."""


class KeyFile:
    """``KeySource`` in one file."""

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.abspath(path))

    def __str__(self) -> str:
        return f"the key file {str(self._path)!r}"

    def load(self) -> bytes | None:
        try:
            text = self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SetupError(f"cannot read {self}: {reason(error)}; make it readable for this user") from error
        return parse_key(text, self)

    def make(self) -> bytes:
        try:
            self._write_new()
        except (OSError, ValueError) as error:
            raise SetupError(
                f"cannot make {self}: {reason(error)}; its folder must exist, be writable and allow hard links, or "
                "choose another one with secrets.key_file"
            ) from error
        key = self.load()  # also checks what another process may have put there
        if key is None:
            raise SetupError(f"{self} was removed while it was made; let it lie, and try again")
        return key

    def _read(self) -> bytes:
        self._check(os.lstat(self._path))  # before opening: opening alone can set a device going
        # NONBLOCK and NOFOLLOW, in case a FIFO or a link has taken the file's place by now.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            self._check(os.fstat(descriptor))
            # Whoever made the file may not have come as far as syncing it. A secret must not be on the disk before
            # the key that opens it.
            os.fsync(descriptor)
            self._sync_folder()
            return os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise SetupError(f"{self} is not a regular file; put the key itself there, not a link")
        if status.st_uid != os.geteuid():
            raise SetupError(
                f"{self} belongs to user {status.st_uid}, this is user {os.geteuid()}; run as that user, or choose "
                "another file with secrets.key_file"
            )
        if mode & 0o077:
            raise SetupError(
                f"{self} is open to other users (mode {mode:04o}), who may have read it; run: chmod 600 '{self._path}'"
            )

    def _write_new(self) -> None:
        temporary = self._path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w") as stream:
                os.fchmod(descriptor, 0o600)  # whatever the umask took away
                stream.write(new_key_text() + "\n")
                stream.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):  # another process was faster
                os.link(temporary, self._path)
        finally:
            os.unlink(temporary)
        self._sync_folder()

    def _sync_folder(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_directory(directory)
        finally:
            os.close(directory)
