"""Die with the supervisor, whatever kills it.

The supervisor holds the only write end of a pipe, every worker a read end. When the supervisor is gone the kernel
closes the write end and signals the readers, and a worker has asked for SIGKILL as that signal (``F_SETSIG``, see
fcntl(2)): no thread and no cooperation of the guest is needed, a guest that spins dies as well. ``PR_SET_PDEATHSIG``
would tie a worker to its parent, the zygote, which may die and be replaced while its workers go on.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

__all__ = ["arm"]

_F_SETSIG = 10  # from <fcntl.h>; CPython's fcntl module does not export it


def arm(inherited_fd: int) -> None:
    """Have the kernel kill this process when the last write end of the lifeline closes.

    The owner and the signal belong to an open file description, which a fork shares, so this process opens the pipe
    once more to get one of its own.
    """
    own_fd = os.open(f"/proc/self/fd/{inherited_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(inherited_fd)
    fcntl.fcntl(own_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own_fd, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own_fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # The supervisor may have died before the line above: then no signal comes any more, but the hang-up can be seen.
    poll = select.poll()
    poll.register(own_fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
