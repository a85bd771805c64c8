"""Attacks in calls: what a socket can do beside carrying bytes, a socket that nobody reads, words that nobody asked
for; and conversations that are damaged at random."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from hostile_worker.acting import ENDINGS, IN_A_CALL, in_a_call, sleep
from hostile_worker.wire import BIG_LOG_LINE, LOG_LINE, MORE, Wire, flood, framed, long_header, pass_descriptors
from isoplug.shared.messages import HostCall, Notice, Returned, encode


@in_a_call
def passes_a_descriptor(wire: Wire, call: int, data: bytes) -> None:
    pass_descriptors(wire.socket, 1, framed(encode(HostCall(call, 1, "host_get_timestamp", b""))))
    wire.hear()


@in_a_call
def passes_253_descriptors_a_hundred_times(wire: Wire, call: int, data: bytes) -> None:
    for _ in range(100):
        pass_descriptors(wire.socket, 253, framed(encode(Notice(call, "host_log", LOG_LINE))))


@in_a_call
def passes_its_own_socket(wire: Wire, call: int, data: bytes) -> None:
    pass_descriptors(wire.socket, 1, framed(encode(HostCall(call, 1, "host_get_timestamp", b""))), wire.socket.fileno())
    wire.hear()


@in_a_call
def passes_a_connection_that_lingers(wire: Wire, call: int, data: bytes) -> None:
    """Whoever closes it last waits a minute: the supervisor, which is kept busy until this process has closed it."""
    busy = json.dumps({"plugin_id": "test.probe", "command": "busy", "params": {"milliseconds": 300}}).encode()
    wire.say(HostCall(call, 1, "host_plugin_command", busy))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as connection:
        connection.connect(server.getsockname())
        peer, _ = server.accept()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection.send(bytes(1 << 20))
        notice = framed(encode(Notice(call, "host_log", LOG_LINE)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        if not pass_descriptors(wire.socket, 1, notice, connection.fileno()):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    wire.hear()
    peer.close()


@in_a_call
def urgent_bytes_and_silence(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.send(b"!", socket.MSG_OOB)
    sleep()


@in_a_call
def a_flood_of_urgent_bytes(wire: Wire, call: int, data: bytes) -> None:
    while True:
        wire.socket.send(b"!", socket.MSG_OOB)


@in_a_call
def urgent_bytes_within_a_frame(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(100) + b"x")
    wire.socket.send(b"!", socket.MSG_OOB)
    sleep()


@in_a_call
def listens_no_more(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_RD)
    wire.say(HostCall(call, 1, "host_get_timestamp", b""))
    sleep()


@in_a_call
def a_child_that_goes_on(wire: Wire, call: int, data: bytes) -> None:
    """The worker dies; its child holds the socket, and ends when the supervisor has closed it."""
    if os.fork():
        os._exit(9)
    while wire.socket.recv(1):
        pass
    os._exit(0)


@in_a_call
def a_child_that_talks_on(wire: Wire, call: int, data: bytes) -> None:
    if os.fork():
        os._exit(9)
    try:
        while True:
            wire.say(Notice(call, "host_log", LOG_LINE))
    except OSError:
        os._exit(0)


# While the supervisor sends 32 MiB


@in_a_call
def unread_and_silence(wire: Wire, call: int, data: bytes) -> None:
    sleep()


@in_a_call
def unread_and_close(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.close()
    sleep()


@in_a_call
def unread_and_half_close(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_RD)
    sleep()


@in_a_call
def unread_and_no_more_words(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_WR)
    sleep()


@in_a_call
def unread_and_death(wire: Wire, call: int, data: bytes) -> None:
    os._exit(9)


@in_a_call
def unread_and_sigstop(wire: Wire, call: int, data: bytes) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@in_a_call
def unread_and_a_flood(wire: Wire, call: int, data: bytes) -> None:
    """Both directions are full: whoever waited for the other would wait for ever."""
    while True:
        wire.say(Notice(call, "host_log", BIG_LOG_LINE))


@in_a_call
def unread_and_a_child(wire: Wire, call: int, data: bytes) -> None:
    if os.fork():
        os._exit(9)
    while wire.socket.recv(1 << 16):
        time.sleep(0.01)
    os._exit(0)


@in_a_call
def unread_and_slow(wire: Wire, call: int, data: bytes) -> None:
    while wire.unread:
        wire.unread -= len(wire.socket.recv(min(wire.unread, 1 << 18)))
        time.sleep(0.001)


@in_a_call
def unread_and_slower(wire: Wire, call: int, data: bytes) -> None:
    while wire.unread:
        wire.unread -= len(wire.socket.recv(1))
        time.sleep(0.01)


# While nobody asks. The call is answered, then:


def idles(name: str, then: Callable[[Wire, int], object]) -> None:
    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(Returned(call, b"honest"))
        then(wire, call)
        sleep()

    IN_A_CALL[f"idle_{name}"] = attack


def compute() -> None:
    while True:
        pass


idles("and_computes", lambda wire, call: compute())
idles("and_speaks", lambda wire, call: wire.say(Returned(call + 1, b"forged")))
idles("and_floods", lambda wire, call: flood(wire, framed(encode(Returned(call, bytes(100))))))
idles("and_floods_large", lambda wire, call: flood(wire, framed(encode(Returned(call, bytes(900_000))))))
idles("and_floods_parts", lambda wire, call: flood(wire, framed(bytes(60_000), MORE)))
idles("and_floods_nothing", lambda wire, call: flood(wire, b"\0\0"))
idles("and_begins_a_frame", lambda wire, call: wire.write(long_header(1 << 20) + b"x"))
idles("and_begins_a_message", lambda wire, call: wire.write(framed(b"x", MORE)))
idles("and_passes_descriptors", lambda wire, call: pass_descriptors(wire.socket, 253, b"x"))
idles("and_is_urgent", lambda wire, call: wire.socket.send(b"!", socket.MSG_OOB))
idles("and_closes", lambda wire, call: wire.socket.close())
idles("and_half_closes", lambda wire, call: wire.socket.shutdown(socket.SHUT_WR))
idles("and_dies", lambda wire, call: os._exit(4))
idles("and_stops", lambda wire, call: os.kill(os.getpid(), signal.SIGSTOP))


# Anything at all


@in_a_call
def at_random(wire: Wire, call: int, data: bytes) -> None:
    """``data`` is the seed: a conversation that would be honest, damaged, in random pieces, with a random end."""
    dice = random.Random(data)
    frames = []
    for sequence in range(1, dice.randrange(4)):
        frames.append(framed(encode(HostCall(call, sequence, "host_get_timestamp", b""))))
        frames.append(framed(encode(Notice(call, "host_log", LOG_LINE))))
    frames.append(framed(encode(Returned(call, bytes(dice.randrange(600))))))
    conversation = bytearray(b"".join(frames)) if dice.random() < 0.8 else bytearray(dice.randbytes(200))
    for _ in range(dice.randrange(6)):
        damage(conversation, dice)
    at = 0
    while at < len(conversation):
        size = dice.choice((1, 2, 9, 100, 1 << 16))
        wire.write(conversation[at : at + size])
        at += size
    dice.choice(list(ENDINGS.values()))(wire)
    sleep()


def damage(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    match dice.randrange(5):
        case 0:
            data[at : at + 1] = bytes((dice.randrange(256),))
        case 1:
            data[at : at + dice.randrange(20)] = b""
        case 2:
            data[at:at] = dice.randbytes(dice.randrange(20))
        case 3:
            data[at:at] = data[: dice.randrange(len(data) + 1)]
        case 4:
            data[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7)))
