"""Attacks in calls: frames that are none, too large, or half."""

from __future__ import annotations

import time
from collections.abc import Callable

from hostile_worker.acting import ENDINGS, IN_A_CALL, in_a_call, sleep, writes
from hostile_worker.wire import COMMAND, FRAME_BYTES, GREETING, MORE, READY, Wire, framed, long_header
from isoplug.shared.limits import FRAME_OVERHEAD_BYTES
from isoplug.shared.messages import HostCall, Returned, encode

writes("more_flag", framed(b"a", MORE))
writes("multipart", framed(b"a", MORE) + framed(b"b", MORE) + framed(b"c"))
writes("more_flag_on_a_long_frame", long_header(1 << 20, MORE))
writes("ping", framed(b"\x04PING\0\x0a", COMMAND))
writes("error_command", framed(b"\x05ERROR\x03bad", COMMAND))
writes("second_ready", framed(READY, COMMAND))
writes("second_greeting", GREETING)
writes("long_command", framed(b"\x04PING" + bytes(1 << 20), COMMAND))
writes("reserved_bit_3", b"\x08\x01a")
writes("reserved_bit_7", b"\x80\x01a")
writes("every_bit", b"\xff" * 4096)
writes("long_of_2_to_the_63", long_header(1 << 63))
writes("long_of_minus_one", long_header((1 << 64) - 1))
writes("long_of_one_too_many", long_header(FRAME_BYTES + FRAME_OVERHEAD_BYTES + 1))
writes("zero_size", b"\0\0")
writes("long_zero_size", long_header(0))
writes("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
writes("newlines", b"\n" * 100_000)


@in_a_call
def multipart_bomb(wire: Wire, call: int, data: bytes) -> None:
    part = framed(bytes(1 << 20), MORE)
    while True:
        wire.write(part)


@in_a_call
def multipart_bomb_of_nothing(wire: Wire, call: int, data: bytes) -> None:
    parts = framed(b"", MORE) * 10_000
    while True:
        wire.write(parts)


@in_a_call
def long_form_of_a_short_frame(wire: Wire, call: int, data: bytes) -> None:
    body = encode(HostCall(call, 1, "host_get_timestamp", b""))
    wire.write(long_header(len(body)) + body)
    wire.hear()


@in_a_call
def an_output_at_the_limit(wire: Wire, call: int, data: bytes) -> bytes:
    return bytes(FRAME_BYTES)


@in_a_call
def a_frame_at_the_limit(wire: Wire, call: int, data: bytes) -> bytes:
    header = len(encode(Returned(call, bytes(1 << 17)))) - (1 << 17)
    return bytes(FRAME_BYTES + FRAME_OVERHEAD_BYTES - header)


@in_a_call
def one_byte_too_many(wire: Wire, call: int, data: bytes) -> None:
    size = FRAME_BYTES + FRAME_OVERHEAD_BYTES + 1
    wire.frame(bytes(size))
    sleep()


HALVES = {
    "half_a_header": long_header(1 << 20)[:5],
    "half_a_frame": long_header(1 << 20) + bytes(1 << 19),
    "all_but_a_byte": long_header(1 << 10) + bytes((1 << 10) - 1),
    "only_the_flags": b"\0",
}


def ends(name: str, data: bytes, ending: Callable[[Wire], object]) -> None:
    def attack(wire: Wire, call: int, _: bytes) -> None:
        wire.write(data)
        ending(wire)
        sleep()

    IN_A_CALL[name] = attack


for half, begun in HALVES.items():
    for end, how in ENDINGS.items():
        ends(f"{half}_{end}", begun, how)
for end, how in ENDINGS.items():
    ends(f"nothing_{end}", b"", how)


@in_a_call
def one_byte_at_a_time(wire: Wire, call: int, data: bytes) -> None:
    for byte in framed(encode(HostCall(call, 1, "host_get_timestamp", b""))):
        wire.write(bytes((byte,)))
        time.sleep(0.0005)
    wire.hear()


@in_a_call
def one_byte_in_a_while(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(FRAME_BYTES))
    while True:
        wire.write(b"x")
        time.sleep(0.05)


@in_a_call
def a_large_frame_in_single_bytes(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(FRAME_BYTES))
    while True:
        wire.socket.send(b"x")
