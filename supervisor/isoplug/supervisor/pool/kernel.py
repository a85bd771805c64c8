"""What the kernel tells about deaths to those who are not the parent of the dead.

Every function answers None, or nothing, where this kernel does not say.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from contextlib import suppress

__all__ = ["has_ended", "is_dying", "oom_kills", "require_child", "wait_status"]

#: From <linux/pidfd.h>: PIDFD_GET_INFO for the first 64 bytes of ``struct pidfd_info``, its flag PIDFD_INFO_EXIT, and
#: where in it the mask of what is known and the exit status stand.
_GET_INFO = 0xC040_FF0B
_INFO_EXIT = 1 << 3
_MASK = struct.Struct("=Q")
_EXIT_STATUS = struct.Struct("=60xi")
_INFO_BYTES = 64
#: What ``fdinfo`` of a pidfd names when its process has been reaped.
_REAPED = -1
#: From <linux/sched.h>, one of the flags that proc_pid_stat(5) tells, and the place of those.
_PF_EXITING = 0x4
_FLAGS = 6
#: How long a process whose socket has closed may take to be seen dead; and one of which the kernel says
#: that it is on its way: its last steps may have to wait for a core (measured: 0.1 s on two cores, beside eight
#: programs that compute).
_DYING_SECONDS, _EXITING_SECONDS = 0.25, 5.0


def wait_status(pid: int, pidfd: int) -> int | None:
    """How a process has ended whose parent died before it: a status as of waitpid(2), or None.

    Its new parent is this process when that is a subreaper or a container's first one, and then has to reap it. Else
    the status is public while it is a zombie, and from Linux 6.15 on also afterwards.
    """
    status = _reap(pidfd)
    if status is None:
        status = _status_of_zombie(pid, pidfd)
    if status is None:
        status = _status_of_reaped(pidfd)
    return status


def has_ended(pidfd: int, patience_seconds: float) -> bool:
    """True when the process has ended, at the latest after ``patience_seconds``."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience_seconds * 1000))


def is_dying(pidfd: int) -> bool:
    """For a process whose socket has closed: a dying one loses that a moment before it is dead. Waits until it is dead,
    or there is no more reason to think that it will be."""
    return has_ended(pidfd, _DYING_SECONDS) or (_is_exiting(pidfd) and has_ended(pidfd, _EXITING_SECONDS))


def require_child(pid: int, pidfd: int, parent_pid: int) -> None:
    """Raises ValueError when ``pidfd`` is not that of ``pid``, or that is not a child of ``parent_pid``, and
    OSError when that cannot be found out.

    Whoever hands over a pidfd has it signalled: a template that has been taken over could name the host itself.
    """
    named = _named_by(pidfd)
    if named == _REAPED:
        return
    if named != pid:
        raise ValueError("it handed over what is not the pidfd of its child")
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        _, parent, *_ = _stat(pid, pidfd)
        if int(parent) != parent_pid:
            raise ValueError("it handed over a process that is not its child")


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory: in this process's control group when that is
    counted, else on the machine."""
    for place in (*_group_counters(), "/proc/vmstat"):
        count = _counted(place)
        if count is not None:
            return count
    return 0


def _is_exiting(pidfd: int) -> bool:
    try:
        flags = int(_stat(_named_by(pidfd), pidfd)[_FLAGS])
    except (FileNotFoundError, ProcessLookupError):  # it has ended by now
        return True
    except (OSError, ValueError):
        return False
    return bool(flags & _PF_EXITING)


def _named_by(pidfd: int) -> int | None:
    """The process id; None when it is not the pidfd of anything. Raises OSError."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8", errors="replace") as file:
        named = [int(line.removeprefix("Pid:")) for line in file if line.startswith("Pid:")]
    return named[0] if named else None


def _reap(pidfd: int) -> int | None:
    with suppress(OSError):
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if ended is not None:
            return ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
    return None


def _status_of_zombie(pid: int, pidfd: int) -> int | None:
    with suppress(OSError, ValueError):
        state, *_, status = _stat(pid, pidfd)
        if state == "Z":
            return int(status)
    return None


def _stat(pid: int | None, pidfd: int) -> list[str]:
    """Of proc_pid_stat(5), what follows the program's name: state, parent, ..., status. Raises OSError."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        _, _, fields = file.read().rpartition(") ")
    signal.pidfd_send_signal(pidfd, 0)  # it is still there, so what was read is about it and no other of that pid
    return fields.split()


def _status_of_reaped(pidfd: int) -> int | None:
    try:
        info = fcntl.ioctl(pidfd, _GET_INFO, _MASK.pack(_INFO_EXIT).ljust(_INFO_BYTES, b"\0"))
    except OSError:  # an older kernel
        return None
    (mask,) = _MASK.unpack_from(info)
    (status,) = _EXIT_STATUS.unpack_from(info)
    return status if mask & _INFO_EXIT else None


def _group_counters() -> list[str]:
    """Where the kernel counts for this process's control group, in either version of them."""
    places: list[str] = []
    with suppress(OSError), open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                places.append(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                places.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    return places


def _counted(place: str) -> int | None:
    with suppress(OSError, ValueError), open(place, encoding="ascii") as file:
        for line in file:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None
