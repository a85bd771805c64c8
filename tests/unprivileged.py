"""A command as a user without privileges, for tests that run as root."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["UNPRIVILEGED", "as_unprivileged", "why_not"]

#: Of whom nothing is expected but that nobody else is it.
UNPRIVILEGED = 65_533

_NEEDED = ("unshare", "mount", "setpriv")


def why_not() -> str | None:
    """Why that cannot be done here, or None."""
    if os.geteuid() != 0:
        return "only root can become another user"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    return f"this machine has no {missing[0]}" if missing else None


def as_unprivileged(command: Sequence[str]) -> list[str]:
    """``command`` with no capability and no group. The interpreter and this tree may lie where only root gets (/root):
    a mount namespace of its own shows them, and nothing else of that folder."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(__file__).resolve().parents[1]}
    hidden = {path: closed for path in sorted(needed) if (closed := _closed_folder(path)) is not None}
    steps = ["mount --make-rprivate /"]
    held = {path: f"/tmp/isoplug-held-{number}" for number, path in enumerate(hidden)}
    for path, place in held.items():
        steps.append(f"mkdir -p {place} && mount --bind {shlex.quote(str(path))} {place}")
    for folder in sorted(set(hidden.values())):
        steps.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(folder))}")
    for path, place in held.items():
        steps.append(f"mkdir -p {shlex.quote(str(path))} && mount --bind {place} {shlex.quote(str(path))}")
        steps.append(f"umount {place} && rmdir {place}")
    become = f"exec setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups --bounding-set=-all"
    script = "; ".join((*steps, f'{become} "$@"'))
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *command]


def _closed_folder(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that others may not pass."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None
