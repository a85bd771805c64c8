"""ZeroMQ's protocol as the supervisor speaks it: what libzmq sends is understood however it is cut up, and everything
else is refused before it costs memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.zmtp import HANDSHAKE, Inflow, Malformed, framed, framed_in_pieces

MOST = 1000
GREETING, READY = HANDSHAKE[:64], HANDSHAKE[64:]
MESSAGES = [b"", b"x", bytes(255), bytes(256), b"y" * 1000]


def taken(inflow: Inflow) -> list[bytes]:
    """Every whole message."""
    messages = []
    while (message := inflow.take(bytes)) is not None:
        messages.append(message)
    return messages


def fed(*pieces: bytes, max_bytes: int = MOST) -> list[bytes]:
    """The messages in ``pieces``, which arrive one after the other."""
    inflow = Inflow(max_bytes)
    messages = []
    for piece in pieces:
        inflow.feed(piece)
        messages += taken(inflow)
    return messages


@contextmanager
def peer(folder: Path) -> Iterator[tuple[zmq.Socket[bytes], socket.socket]]:
    """A PAIR socket of libzmq that has connected, and this end of the connection, as bytes."""
    with socket.socket(socket.AF_UNIX) as listener, zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        listener.bind(str(folder / "socket"))
        listener.listen(1)
        pair.linger = 0
        pair.connect(f"ipc://{folder / 'socket'}")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20.0)
            yield pair, connection


def received(connection: socket.socket, inflow: Inflow) -> bytes:
    """The next message."""
    while (message := inflow.take(bytes)) is None:
        data = connection.recv(1 << 16)
        assert data, "the peer has hung up"
        inflow.feed(data)
    return message


@pytest.fixture(scope="module")
def said_by_libzmq(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """All that a PAIR socket of libzmq sends for MESSAGES."""
    said = b""
    with peer(tmp_path_factory.mktemp("peer")) as (pair, connection):
        connection.sendall(HANDSHAKE)
        for message in MESSAGES:
            pair.send(message)
        while fed(said) != MESSAGES:
            said += connection.recv(1 << 16)
    return said


# --- with libzmq ------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_what_libzmq_sends_is_understood_in_whatever_pieces_it_comes(
    said_by_libzmq: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said_by_libzmq)), max_size=30)))
    edges = [0, *cuts, len(said_by_libzmq)]
    assert fed(*(said_by_libzmq[start:end] for start, end in pairwise(edges))) == MESSAGES


def test_what_libzmq_sends_is_understood_split_at_each_byte(said_by_libzmq: bytes) -> None:
    for cut in range(len(said_by_libzmq)):
        assert fed(said_by_libzmq[:cut], said_by_libzmq[cut:]) == MESSAGES
    assert fed(*(bytes([byte]) for byte in said_by_libzmq)) == MESSAGES


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_536, 32 << 20])
def test_messages_go_both_ways_between_libzmq_and_us(tmp_path: Path, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with peer(tmp_path) as (pair, connection):
        connection.sendall(HANDSHAKE)
        pair.send(message)
        assert received(connection, Inflow(32 << 20)) == message
        connection.sendall(framed(message))
        assert pair.recv() == message


def test_a_message_of_several_parts_is_refused_at_its_first_part(tmp_path: Path) -> None:
    with peer(tmp_path) as (pair, connection):
        connection.sendall(HANDSHAKE)
        pair.send_multipart([b"a", b"b"])
        with pytest.raises(Malformed, match="several frames"):
            received(connection, Inflow(MOST))


def test_another_kind_of_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(1)
        dealer.linger = 0
        dealer.connect(f"ipc://{tmp_path / 'socket'}")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20.0)
            connection.sendall(GREETING)
            with pytest.raises(Malformed, match="PAIR"):
                received(connection, Inflow(MOST))


# --- without ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_what_is_framed_is_taken(messages: list[bytes]) -> None:
    assert fed(HANDSHAKE + b"".join(map(framed, messages))) == messages


@given(st.binary(max_size=300), st.booleans())
def test_whatever_arrives_is_a_message_malformed_or_not_all_here(data: bytes, has_greeted: bool) -> None:
    with suppress(Malformed):
        for message in fed((HANDSHAKE if has_greeted else b"") + data):
            assert len(message) <= MOST


@pytest.mark.parametrize(
    "greeting",
    [
        b"\0" + GREETING[1:],
        GREETING[:9] + b"\0" + GREETING[10:],
        GREETING[:10] + b"\2" + GREETING[11:],
        GREETING[:12] + b"PLAIN" + bytes(15) + GREETING[32:],
        GREETING[:12] + b"NULLX" + bytes(15) + GREETING[32:],
        b"GET / HTTP/1.1\r\n".ljust(64),
    ],
    ids=["signature", "end of signature", "version 2", "PLAIN", "no mechanism", "HTTP"],
)
def test_a_greeting_of_another_protocol_is_refused(greeting: bytes) -> None:
    with pytest.raises(Malformed, match="greeting"):
        fed(greeting)


@pytest.mark.parametrize(
    "ready",
    [
        b"\0" + READY[1:],
        READY[:2] + b"\5ERROR" + READY[8:],
        READY[:-4] + b"PUSH",
        b"\4\0",
        b"\4\6\5READY",
    ],
    ids=["a message", "an error", "another socket", "empty", "without properties"],
)
def test_a_handshake_of_something_else_is_refused(ready: bytes) -> None:
    with pytest.raises(Malformed, match="handshake"):
        fed(GREETING + ready)


def test_a_handshake_is_bounded_whatever_messages_may_be() -> None:
    with pytest.raises(Malformed, match="a frame of 513 bytes, 512 is the limit"):
        fed(GREETING + b"\6" + (513).to_bytes(8, "big"), max_bytes=1 << 30)


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        (b"\1\1x", "several frames"),
        (b"\3" + (1).to_bytes(8, "big") + b"x", "several frames"),
        (b"\4\1x", "command"),
        (b"\6" + (1).to_bytes(8, "big") + b"x", "command"),
        (b"\x08\1x", "unknown kind"),
        (b"\x80\1x", "unknown kind"),
        (b"\2" + (MOST + 1).to_bytes(8, "big"), "a frame of 1001 bytes, 1000 is the limit"),
        (b"\2" + b"\xff" * 8, "is the limit"),
    ],
    ids=["more", "more and long", "command", "long command", "bit 3", "bit 7", "too long", "the longest"],
)
def test_a_frame_that_no_worker_sends_is_refused_before_its_body_has_come(frame: bytes, refusal: str) -> None:
    assert fed(HANDSHAKE, frame[:1]) == []
    with pytest.raises(Malformed, match=refusal):
        fed(HANDSHAKE + framed(b"before"), frame)


def test_a_short_frame_counts_against_the_limit_as_well() -> None:
    with pytest.raises(Malformed, match="a frame of 20 bytes, 10 is the limit"):
        fed(HANDSHAKE, framed(bytes(20)), max_bytes=10)


def test_a_long_frame_of_a_few_bytes_is_a_message() -> None:
    assert fed(HANDSHAKE, b"\2" + bytes(8), b"\2" + (3).to_bytes(8, "big") + b"abc") == [b"", b"abc"]


@pytest.mark.parametrize("size", [1, 255, 256, 20_000, 300_000])
def test_a_message_in_pieces_is_the_same_on_the_wire(size: int) -> None:
    message = bytes(size)
    assert b"".join(framed_in_pieces([message[: size // 2], message[size // 2 :]])) == framed(message)


def test_a_buffer_grows_with_what_arrives_and_not_with_what_is_announced() -> None:
    inflow = Inflow(1 << 30)
    inflow.feed(HANDSHAKE)
    assert inflow.take(bytes) is None
    inflow.feed(b"\2" + (1 << 29).to_bytes(8, "big"))
    arrived, longest = 9, 0
    while arrived < 4 << 20:
        assert inflow.take(bytes) is None
        room = inflow.room()
        longest = max(longest, arrived + len(room))
        assert longest <= max(16 << 10, 4 * arrived)
        inflow.arrived(len(room))
        arrived += len(room)


def test_long_messages_do_not_get_mixed_up_in_a_buffer_that_is_used_again() -> None:
    first, second = Inflow(1 << 20), Inflow(1 << 20)
    for inflow, filling in ((first, b"a"), (second, b"b"), (first, b"c"), (first, b"d"), (second, b"e")):
        wire = framed(filling * 500_000)
        if inflow.is_empty and filling in (b"a", b"b"):
            wire = HANDSHAKE + wire
        for start in range(0, len(wire), 7_777):
            inflow.feed(wire[start : start + 7_777])
            if (message := inflow.take(bytes)) is not None:
                assert message == filling * 500_000
        assert inflow.is_empty


def test_it_is_empty_when_everything_was_taken_and_only_then() -> None:
    inflow = Inflow(MOST)
    assert inflow.is_empty
    inflow.feed(HANDSHAKE + framed(b"one") + framed(b"two")[:-1])
    assert taken(inflow) == [b"one"]
    assert not inflow.is_empty
    inflow.feed(b"o")
    assert taken(inflow) == [b"two"]
    assert inflow.is_empty
