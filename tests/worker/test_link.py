"""The worker's end of the socket, against a PAIR socket of libzmq in its supervisor's place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from isoplug.shared.limits import EXIT_PROTOCOL
from isoplug.shared.messages import (
    PROTOCOL,
    Hello,
    HostCall,
    Invoke,
    Load,
    MalformedMessage,
    Returned,
    decode_from_worker,
    encode,
)
from isoplug.shared.zmtp import HANDSHAKE
from isoplug.worker.link import Link

MOST = 16 << 20
SIZES = [0, 1, 200, 255, 256, 65_536, MOST // 2]


@contextmanager
def peer(folder: Path) -> Iterator[tuple[zmq.Socket[bytes], Link]]:
    """A PAIR socket of libzmq that listens, and a link to it."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.linger = 0
        pair.rcvtimeo = pair.sndtimeo = 20_000
        pair.bind(f"ipc://{folder / 'socket'}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(folder / "socket"))
            yield pair, Link(connection.fileno(), MOST)


@pytest.mark.parametrize("size", SIZES)
def test_libzmq_understands_a_worker_and_a_worker_libzmq(tmp_path: Path, size: int) -> None:
    payload = os.urandom(size)
    with peer(tmp_path) as (pair, link):
        link.send(Hello(PROTOCOL))
        assert decode_from_worker(pair.recv()) == Hello(PROTOCOL)
        pair.send(encode(Load()))
        assert link.receive() == Load()
        pair.send(encode(Invoke(1, "export", payload)))
        assert link.receive() == Invoke(1, "export", payload)
        link.send(HostCall(1, 1, "host_log", payload))
        link.send(Returned(1, payload))
        assert decode_from_worker(pair.recv()) == HostCall(1, 1, "host_log", payload)
        assert decode_from_worker(pair.recv()) == Returned(1, payload)


def test_messages_that_arrive_together_are_received_one_by_one(tmp_path: Path) -> None:
    with peer(tmp_path) as (pair, link):
        sent = [Invoke(number, "export", bytes(size)) for number, size in enumerate(SIZES)]
        for message in sent[:-1]:  # the kernel holds these
            pair.send(encode(message))
        assert [link.receive() for _ in sent[:-1]] == sent[:-1]


def test_what_is_no_message_is_malformed(tmp_path: Path) -> None:
    with peer(tmp_path) as (pair, link):
        pair.send(b"\xc1" * 64)
        with pytest.raises(MalformedMessage):
            link.receive()


@pytest.mark.parametrize("is_sending", [True, False], ids=["sending", "receiving"])
def test_a_worker_ends_when_its_supervisor_has_hung_up(is_sending: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if not pid:
            try:
                ours.close()
                link = Link(theirs.fileno(), MOST)
                while True:
                    link.send(Hello(PROTOCOL)) if is_sending else link.receive()
            finally:
                os._exit(1)
        ours.sendall(HANDSHAKE)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == EXIT_PROTOCOL
