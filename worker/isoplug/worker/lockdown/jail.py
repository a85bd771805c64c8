"""A root folder of its own, with nothing in it but what the caller has put there.

Only root can do this, and only a process that then gives up its privileges stays inside: root gets out of a chroot.
"""

from __future__ import annotations

import os

from isoplug.worker.lockdown.layer import LayerMissing

__all__ = ["enter"]


def enter(folder: str) -> None:
    """Make ``folder`` this process's root and working folder. No descriptor of a folder outside may be open.

    Raises LayerMissing when chroot(2) is not permitted, OSError when there is no such folder.
    """
    try:
        os.chroot(folder)
    except PermissionError as error:
        raise LayerMissing("chroot(2) is not permitted; give this container CAP_SYS_CHROOT") from error
    os.chdir("/")
