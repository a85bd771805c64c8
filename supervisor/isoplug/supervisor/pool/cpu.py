"""The CPU time of another process, from the clock that the kernel keeps for each.

Reading it takes less than a microsecond and no permission. It counts all threads, to the nanosecond, also while they
run; it stands still while the process waits.
"""

from __future__ import annotations

import time

__all__ = ["CpuClock"]

#: CPUCLOCK_SCHED of the whole process, from <linux/posix-timers.h>; the pid stands in the bits above, inverted.
_SCHED = 2


class CpuClock:
    """Of one process. Its pid may be another's once it is dead: whoever acts on a reading looks at the pidfd, too."""

    __slots__ = ("_id",)

    def __init__(self, pid: int) -> None:
        self._id = (~pid << 3) | _SCHED

    def seconds(self) -> float:
        """Since its start; 0 for a process that is gone."""
        try:
            return time.clock_gettime(self._id)
        except OSError:
            return 0.0
