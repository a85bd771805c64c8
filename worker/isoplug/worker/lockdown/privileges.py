"""No new privileges: from here on no exec gives any, neither by set-uid bits nor by file capabilities.

Landlock and seccomp ask for it, because without it a confined process could start a privileged program in a world
that the program does not expect.
"""

from __future__ import annotations

from isoplug.worker.lockdown.kernel import prctl

__all__ = ["renounce"]

_PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>


def renounce() -> None:
    """For this thread and all that it starts, for good. Every kernel since 3.5 has it."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
