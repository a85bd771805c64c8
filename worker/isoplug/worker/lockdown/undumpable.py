"""No other process of the same user may look into this one: no ptrace, no /proc/<pid>/mem, no core dump.

Comes after the change of user, which sets the flag anew. A fork inherits it. From here on /proc/self belongs to root,
so what has to be read there is read before.
"""

from __future__ import annotations

from isoplug.worker.lockdown.kernel import prctl

__all__ = ["hide"]

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>


def hide() -> None:
    prctl(_PR_SET_DUMPABLE, 0)
