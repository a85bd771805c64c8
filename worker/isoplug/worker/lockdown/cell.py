"""Where a template and its workers are locked in: the layers in their order.

A template is locked while it has one thread, because several layers bind one thread only. Its workers inherit what it
lost, and lose more. The order matters: descriptors first, so that nothing later can leak what the zygote held; what
reads /proc before the jail, which has none; the lifeline before the user changes, because root's signals reach every
user; no_new_privs and the user before the dumpable flag, which a change of user sets; seccomp last, because every other
layer needs a call that it forbids.
"""

from __future__ import annotations

import signal
from functools import partial

from isoplug.shared.forking import TemplateOrder
from isoplug.shared.lockdown import Layer, Lockdown, Protection
from isoplug.worker.lockdown import (
    capabilities,
    descriptors,
    jail,
    landlock,
    lifeline,
    oom,
    privileges,
    rlimits,
    seccomp,
    undumpable,
    user,
    writable_code,
)
from isoplug.worker.lockdown.layer import Step, apply
from isoplug.worker.lockdown.seccomp import Stage

__all__ = ["Cell"]


class Cell:
    """Of a template and its workers."""

    def __init__(self, order: TemplateOrder, lifeline_fd: int, control_fd: int) -> None:
        """Lock this process, a template. Raises OSError when the kernel refuses what every machine has."""
        descriptors.leave_terminal()
        descriptors.forget_environment()
        descriptors.close_all_but(lifeline_fd, control_fd)
        lifeline.tie(lifeline_fd, signal.SIGKILL)
        oom.volunteer()
        rlimits.bound_template(order.limits)
        self._limits = order.limits
        self.protection = Protection() if order.lockdown is Lockdown.OFF else apply(_layers(order))

    def move_in(self, lifeline_fd: int, link_fd: int) -> None:
        """This process is a worker now, forked from its template."""
        descriptors.leave_terminal()
        descriptors.close_others(lifeline_fd, link_fd)
        lifeline.tie(lifeline_fd, signal.SIGKILL)
        rlimits.bound_worker(self._limits)

    def narrow(self, stage: Stage) -> None:
        """From here on only the system calls of ``stage``; raises LayerMissing never, since there was one before."""
        if Layer.SECCOMP in self.protection.applied:
            seccomp.enter(stage)


def _layers(order: TemplateOrder) -> list[Step]:
    """In their order; a layer may have several steps."""
    whom = _Whom()
    return [
        (Layer.SECCOMP, writable_code.seal),
        (Layer.CAPABILITIES, capabilities.bound),
        (Layer.USER, whom.choose),
        (Layer.JAIL, partial(jail.enter, order.folder)),
        (Layer.USER, whom.become),
        (Layer.USER, partial(rlimits.bound_processes, order.limits)),
        (Layer.CAPABILITIES, capabilities.drop),
        (Layer.NO_NEW_PRIVILEGES, privileges.renounce),
        (Layer.UNDUMPABLE, undumpable.hide),
        (Layer.LANDLOCK, landlock.deny_everything),
        (Layer.SECCOMP, partial(seccomp.enter, Stage.COMPILE)),
    ]


class _Whom:
    """Who this process will be: chosen while there is a /proc, and become afterwards."""

    def choose(self) -> None:
        self._uid = user.choose()

    def become(self) -> None:
        user.become(self._uid)
