"""The supervisor's end of a worker's socket, when the other end closes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.link import Breach, Gone, Link
from isoplug.worker.lockdown.kernel import system_call

#: Of the one thread, and not of the process.
EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]


@contextmanager
def link_to(work: Callable[[], None]) -> Iterator[Link]:
    """A link to a fork that does this, without its socket."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            theirs.close()
            work()
        finally:
            os._exit(1)
    theirs.close()
    pidfd = os.pidfd_open(pid)
    try:
        with ours:
            yield Link(ours, pidfd, 1000)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(pidfd)


def dies_slowly() -> None:
    """Its first thread has ended, the other takes a while, as all of a process may on a busy machine."""

    def last() -> None:
        time.sleep(1.0)
        os._exit(9)

    threading.Thread(target=last).start()
    system_call(EXIT, 0)


def test_a_process_that_is_dying_is_waited_for() -> None:
    with link_to(dies_slowly) as link, pytest.raises(Gone):
        link.receive(Deadline.after(60.0))


def test_a_process_that_goes_on_without_its_socket_breaks_the_protocol() -> None:
    with link_to(lambda: time.sleep(60.0)) as link, pytest.raises(Breach, match="it closed its socket"):
        link.receive(Deadline.after(60.0))
