"""An exchange that must not wait, with a worker that makes it wait."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from conftest import WAIT_SECONDS
from isoplug.shared.messages import Failed, Invoke, Returned, decode_to_worker, encode
from isoplug.shared.zmtp import HANDSHAKE, Inflow, framed
from isoplug.supervisor.calls.exchange import exchange
from isoplug.supervisor.calls.steps import AT_ONCE_BYTES, Steps, finish
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.budget import Allowance, worker_limits
from isoplug.supervisor.pool.link import Link, open_pair
from isoplug.supervisor.pool.worker import Origin, Worker, WorkerProcess

LIMITS = Limits()


@pytest.fixture
def pair() -> Iterator[tuple[Worker, socket.socket]]:
    """A worker, and the end of the socket that would be its own."""
    ours, theirs = open_pair()
    stderr_fd, _stderr = os.pipe()
    with subprocess.Popen(["sleep", "60"], stderr=_stderr) as process, theirs:
        os.close(_stderr)
        pidfd = os.pidfd_open(process.pid)
        link = Link(ours, pidfd, LIMITS.frame)
        child = WorkerProcess(process.pid, pidfd, stderr_fd, worker_limits(LIMITS))
        try:
            yield Worker(child, link, Allowance.of(LIMITS), cast("Origin", None)), theirs
        finally:
            process.kill()
            process.wait()
            link.close()
            child.close()


def test_under_a_loop_a_worker_that_does_not_read_is_waited_for_in_a_thread(
    pair: tuple[Worker, socket.socket],
) -> None:
    worker, theirs = pair
    theirs.sendall(HANDSHAKE)
    data = os.urandom(AT_ONCE_BYTES)

    def begin() -> Steps[Returned | Failed]:
        deadline = Deadline.after(WAIT_SECONDS)
        return exchange(worker, worker.link, "echo", data, deadline, lambda *_: b"", worker.link)

    def read_and_answer(last: int) -> None:
        inflow, number = Inflow(2 * AT_ONCE_BYTES), 0
        while number < last:
            inflow.arrived(theirs.recv_into(inflow.room()))
            while (message := inflow.take(decode_to_worker)) is not None:
                assert isinstance(message, Invoke)
                assert message.input == data
                number = message.call
        theirs.sendall(framed(encode(Returned(number, b"answer"))))

    began = time.monotonic()
    steps = begin()
    unread = [steps]
    while next(steps) is worker.link:  # sent; as many as the socket takes
        steps = begin()
        unread.append(steps)
    assert time.monotonic() - began < WAIT_SECONDS / 2
    reader = threading.Thread(target=read_and_answer, args=(len(unread),))
    reader.start()
    try:
        assert finish(steps) == Returned(len(unread), b"answer")
    finally:
        reader.join()
