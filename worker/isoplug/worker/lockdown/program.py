"""What the process of a WASI program gives up: the layers of a worker, with a folder that it may read and write.

It stays dumpable: the supervisor looks into /proc for files that the program has deleted and keeps open, and a program
has no secrets from its own user. With a user of its own it is undumpable all the same, a change of user does that.
"""

from __future__ import annotations

import os
from functools import partial

from isoplug.shared.lockdown import Layer, Lockdown, Protection
from isoplug.worker.lockdown import capabilities, jail, landlock, lifeline, privileges, seccomp, user, writable_code
from isoplug.worker.lockdown.layer import LayerMissing, Step, apply
from isoplug.worker.lockdown.seccomp import Stage

__all__ = ["lock"]


def lock(folder: str, lockdown: Lockdown) -> Protection:
    """Make ``folder`` the working folder and lock everything else. While the process has one thread, and when it has
    imported all that it needs. Raises OSError when there is no such folder."""
    os.chdir(folder)
    if lockdown is Lockdown.OFF:
        return Protection()
    tenant = _Tenant()
    steps: list[Step] = [
        (Layer.SECCOMP, writable_code.seal),
        (Layer.CAPABILITIES, capabilities.bound),
        (Layer.USER, tenant.choose),
        (Layer.JAIL, partial(jail.enter, folder)),
        (Layer.USER, tenant.become),
        (Layer.CAPABILITIES, capabilities.drop),
        (Layer.NO_NEW_PRIVILEGES, privileges.renounce),
        (Layer.LANDLOCK, partial(landlock.confine_to, ".")),
        (Layer.SECCOMP, lifeline.follow_parent),  # a program closes what it likes, its lifeline as well
        (Layer.SECCOMP, partial(seccomp.enter, Stage.PROGRAM)),
    ]
    return apply(steps)


class _Tenant:
    """Who owns the working folder: chosen while there is a /proc, and become afterwards."""

    def choose(self) -> None:
        self._uid = user.choose()

    def become(self) -> None:
        owner = os.geteuid()
        _give(self._uid)
        try:
            user.become(self._uid)
        except LayerMissing:
            _give(owner)
            raise


def _give(uid: int) -> None:
    """The working folder with all that is in it. Raises LayerMissing."""
    try:
        for path, folders, files in os.walk("."):
            for name in (".", *folders, *files):
                os.lchown(os.path.join(path, name), uid, uid)
    except PermissionError as error:
        raise LayerMissing("chown(2) is not permitted; give this container CAP_CHOWN") from error
