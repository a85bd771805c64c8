"""Files that a command writes: looked at before a run of an hour, and written whole after it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["require_writable", "write_output"]


def require_writable(path: Path, option: str) -> None:
    """Before a run of an hour, and not after it. Raises SetupError."""
    from isoplug.shared.errors import SetupError

    if path.is_dir():
        raise SetupError(f"{option}: {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise SetupError(f"{option}: {path.parent} is not a folder; make it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise SetupError(f"{option}: cannot write in {path.parent.resolve()}; name another folder")


def write_output(path: Path, content: bytes) -> None:
    """Raises SetupError."""
    from isoplug.shared.errors import SetupError
    from isoplug.supervisor.files import reason, write_atomically

    try:
        write_atomically(path, content, new_mode=0o644)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {reason(error)}; free space, or name another file") from error
