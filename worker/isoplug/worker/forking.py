"""A process that forks others on request, hands back their pidfds and reports their ends with what the kernel has
counted. ``isoplug.shared.forking`` has the conversation."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

import msgpack

from isoplug.shared.forking import PACKET_BYTES
from isoplug.shared.limits import EXIT_BUG
from isoplug.worker import orphans
from isoplug.worker.lockdown import last_words

__all__ = ["ForkServer"]

#: Of one order: lifeline, standard error, and for a template its conversation and the module.
_MOST_DESCRIPTORS = 4
#: Workers whose templates have died; more are what a template has left that was taken over.
_MOST_ADOPTED = 256
#: How often those are killed that the dead leave: more than they can be nested in each other within any bound.
_PASSES = 1_000


class ForkServer:
    """``control`` is its end of the conversation. With ``adopts`` it also looks after what its children leave behind
    (``orphans.take``): honest workers, and what a child that was taken over has forked in secret."""

    def __init__(self, control: socket.socket, *, adopts: bool = False) -> None:
        self._control = control
        self._adopts = adopts
        self._children: dict[int, int] = {}  # pidfd → pid, each a child that has not been reaped
        self._adopted: set[int] = set()  # those that nobody asked for, by pidfd: nobody is told of their ends
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self, live: Callable[..., int], until_readable: int | None = None) -> None:
        """Until the supervisor closes the conversation, or ``until_readable`` is.

        ``live(order, lifeline_fd, *other_fds)`` is the life of a child: its return value is the exit code.
        """
        if until_readable is not None:
            self._poll.register(until_readable, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                elif fd == until_readable or not self._answer_request(live):
                    return

    def say(self, *words: Any) -> None:
        self._control.send(msgpack.packb(words))

    def end_children(self) -> None:
        """Kill and reap every child, and those that they leave. Pids cannot be reused here: an unreaped child keeps its
        own."""
        for _ in range(_PASSES):
            for pidfd in self._children:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            for pid in self._children.values():
                os.waitpid(pid, 0)
            self._children.clear()
            self._adopted.clear()
            self._adopt()
            if not self._children:
                return

    def _answer_request(self, live: Callable[..., int]) -> bool:
        packet, fds, _, _ = socket.recv_fds(self._control, PACKET_BYTES, _MOST_DESCRIPTORS)
        if not packet:
            return False
        request, *order = msgpack.unpackb(packet)
        with ExitStack() as lent:  # they are the child's
            for fd in fds:
                lent.callback(os.close, fd)
            try:
                self._fork(live, request, order, fds)
            except OSError as error:  # no processes or descriptors left
                self.say("refused", request, str(error))
        return True

    def _fork(self, live: Callable[..., int], request: int, order: list[Any], fds: list[int]) -> None:
        pid = os.fork()
        if not pid:
            _become(partial(live, order), *fds)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # the caller hears that it was refused, so it must not be there
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._control, [msgpack.packb(["forked", request, pid])], [pidfd])

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        _, status, usage = os.wait4(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        was_adopted = pidfd in self._adopted
        self._adopted.discard(pidfd)
        self._adopt()
        if not was_adopted:
            peak_bytes = usage.ru_maxrss * 1024  # getrusage(2) counts in KiB
            self.say("exited", pid, status, peak_bytes, usage.ru_utime + usage.ru_stime)

    def _adopt(self) -> None:
        if not self._adopts:
            return
        known = set(self._children.values())
        for pid in orphans.children():
            if pid in known:
                continue
            if len(self._adopted) == _MOST_ADOPTED:  # a bomb: each takes a descriptor, which forks need as well
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                continue
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = pid
            self._adopted.add(pidfd)
            self._poll.register(pidfd, select.POLLIN)


def _become(live: Callable[..., int], lifeline_fd: int, stderr_fd: int, *other_fds: int) -> NoReturn:
    """Whatever happens in the child, it must not run its parent's loop."""
    exit_code = EXIT_BUG
    try:
        last_words.speak_into(stderr_fd)
        exit_code = live(lifeline_fd, *other_fds)
    except BaseException as error:  # noqa: BLE001  this process ends here, and only the supervisor can log it
        last_words.say(error)
    finally:
        os._exit(exit_code)
