"""A private folder into which a supervisor writes small whole files. What is lost in a power cut does not matter here,
so nothing waits for the disk; a supervisor that is killed leaves whole files all the same."""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from isoplug.supervisor.files import TEMPORARY_PREFIX

__all__ = ["remove", "remove_leftovers", "slug", "write_whole"]

_UNUSUAL = re.compile(r"[^A-Za-z0-9._]+")
_SLUG_CHARACTERS = 40
#: A file that is half-written for so long has lost its writer.
_LEFT_OVER_SECONDS = 3600.0


def slug(text: str) -> str:
    """What of a plugin's name may stand in the name of a file."""
    return _UNUSUAL.sub("_", text)[:_SLUG_CHARACTERS].lstrip(".") or "_"


def write_whole(folder: Path, name: str, data: bytes) -> None:
    """A reader sees all of it or nothing. Makes the folder, and the one around it (0700). Raises OSError; then nothing
    was left behind."""
    temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
    except FileNotFoundError:
        for place in (folder.parent, folder):  # mode counts for the last one of ``parents`` only
            place.mkdir(0o700, exist_ok=True)
        descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as stream:
            rest = memoryview(data)
            while rest:
                rest = rest[stream.write(rest) or 0 :]
        os.rename(temporary, folder / name)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Somebody else may have done so."""
    with suppress(OSError):
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """What killed writers have left half-written."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFT_OVER_SECONDS:
                        os.unlink(entry.path)
