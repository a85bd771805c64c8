"""Processes whose parent has died: they become children of the nearest ancestor that has asked for them.

A template may be taken over by a module that its compiler does not withstand, and fork processes in secret, which close
their lifeline. Without this they would be children of init, and nobody here would ever end them.
"""

from __future__ import annotations

import os
from contextlib import suppress

from isoplug.worker.lockdown.kernel import prctl

__all__ = ["children", "take"]

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def take() -> None:
    """From here on this process is the parent of every orphan below it. Forks of it are not."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Of this process, which has one thread; none on a kernel that does not tell (CONFIG_PROC_CHILDREN)."""
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]
    return []
