"""Die with the supervisor, whatever kills it.

The supervisor holds the only write end of a pipe, every worker a read end, opened for it alone. When the supervisor is
gone the kernel closes the write end and signals the readers, and a worker has asked for SIGKILL as that signal
(``F_SETSIG``, see fcntl(2)): no thread and no cooperation of the guest is needed, a guest that spins dies as well.
``PR_SET_PDEATHSIG`` would tie a worker to its parent, the template, which may die and be replaced while its workers go
on.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

from isoplug.worker.lockdown.kernel import prctl

__all__ = ["follow_parent", "tie", "wake_at_end_of"]

_F_SETSIG = 10  # from <fcntl.h>; CPython's fcntl module does not export it
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def wake_at_end_of(lifeline_fd: int) -> None:
    """For the zygote, which outlives the supervisor by the moment that it takes to tidy up: SIGCONT, so that it does so
    even when something had stopped it. ``lifeline_fd`` may be shared with others."""
    tie(os.open(f"/proc/self/fd/{lifeline_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), signal.SIGCONT)


def follow_parent() -> None:
    """Die with the thread of the supervisor that started this process and waits for it, also when the lifeline has been
    closed. After any change of user, which undoes it; while the lifeline is tied, for a parent that is dead already."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tie(fd: int, number: signal.Signals) -> None:
    """Have the kernel send ``number`` to this process when the other end of the pipe ``fd`` is closed everywhere.

    The owner and the signal belong to an open file description, which a fork shares, so ``fd`` has to have one that
    nobody else ties himself by.
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, _F_SETSIG, number)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # It may have closed before the line above: then no signal comes any more, but the hang-up can be seen.
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), number)
