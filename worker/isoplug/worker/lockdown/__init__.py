"""What a forked process gives up before it touches a plugin, one layer a module, and the order they go in.

The order matters: descriptors first, so that nothing later can leak what the zygote held; the lifeline before the
limits, because it has to open one descriptor. All of it runs while the process has one thread.
"""

from __future__ import annotations

from isoplug.shared.limits import WorkerLimits
from isoplug.worker.lockdown import descriptors, lifeline, rlimits

__all__ = ["lock_down"]


def lock_down(limits: WorkerLimits, lifeline_fd: int) -> None:
    """Apply every layer to this process. Raises OSError when the kernel refuses one."""
    descriptors.leave_terminal()
    descriptors.close_all_but(lifeline_fd)
    lifeline.arm(lifeline_fd)
    rlimits.apply(limits)
