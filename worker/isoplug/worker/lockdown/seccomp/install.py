"""From a stage to a filter in the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final

from isoplug.worker.lockdown.kernel import system_call
from isoplug.worker.lockdown.layer import LayerMissing
from isoplug.worker.lockdown.seccomp.assembler import Program, assemble
from isoplug.worker.lockdown.seccomp.numbers import MACHINES, Machine
from isoplug.worker.lockdown.seccomp.policies import POLICIES, Stage

__all__ = ["enter"]

_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1  # <linux/seccomp.h>


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _this_machine() -> Machine | None:
    return MACHINES.get(os.uname().machine) if sys.maxsize > 1 << 32 else None  # a 32-bit process has other numbers


_MACHINE: Final = _this_machine()
#: Assembled when this module is imported, that is in the zygote: what is forked from it only installs.
_PROGRAMS: Final[dict[Stage, Program]] = (
    {stage: assemble(policy, _MACHINE) for stage, policy in POLICIES.items()} if _MACHINE is not None else {}
)


def enter(stage: Stage) -> None:
    """From here on this process, with all its threads, may make the calls of ``stage``, for good. ``RUN_GUEST`` binds
    the calling thread only.

    After ``privileges.renounce``. Raises LayerMissing.
    """
    if _MACHINE is None:
        raise LayerMissing(f"no system-call numbers for {os.uname().machine}; isoplug knows {', '.join(MACHINES)}")
    code = _PROGRAMS[stage].for_process(os.getpid())
    flags = 0 if stage is Stage.RUN_GUEST else _FLAG_TSYNC
    filter_ = _SockFprog(len(_PROGRAMS[stage]), code)
    try:
        stuck = system_call(_MACHINE.numbers["seccomp"], _SET_MODE_FILTER, flags, ctypes.addressof(filter_))
    except OSError as error:
        raise LayerMissing(_REASONS.get(error.errno or 0, f"seccomp is refused: {error.strerror}")) from error
    if stuck:  # the id of a thread that has a filter of its own
        raise LayerMissing(f"seccomp is refused: thread {stuck} has another filter")


_REASONS = {
    errno.ENOSYS: "this kernel has no seccomp(2); it takes Linux 3.17",
    errno.EINVAL: "this kernel has no seccomp filters; it takes CONFIG_SECCOMP_FILTER",
    errno.EACCES: "seccomp is refused: without no_new_privs it takes CAP_SYS_ADMIN",
}
