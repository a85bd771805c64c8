"""Where a supervisor's runtime folder is made: private, for what programs write and for templates to be locked into."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

from isoplug.supervisor.private_folder import PrivateFolder

__all__ = ["make_runtime_folder"]


def make_runtime_folder() -> PrivateFolder:
    """Raises SetupError."""
    return PrivateFolder.make("isoplug-", _bases())


def _bases() -> list[str]:
    """Absolute, since the processes run elsewhere; UTF-8, since orders hold nothing else."""
    bases = [os.environ.get("XDG_RUNTIME_DIR", "")]
    with suppress(FileNotFoundError):  # not one of the usual places can be written to
        bases.append(tempfile.gettempdir())
    return [base for base in (*bases, "/tmp") if os.path.isabs(base) and _is_utf8(base)]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
