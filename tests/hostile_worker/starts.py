"""Attacks at the start: what comes in place of a greeting, or with it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from hostile_worker.acting import AT_START, ENDINGS, at_start, serve, sleep
from hostile_worker.wire import (
    COMMAND,
    ESCAPES,
    GREETING,
    HANDSHAKE,
    LOG_LINE,
    MORE,
    READY,
    Wire,
    flood,
    framed,
    long_header,
    pass_descriptors,
)
from isoplug.shared.limits import TEXT_BYTES
from isoplug.shared.messages import PROTOCOL, Hello, HostCall, Loaded, LoadFailed, Notice, Returned, encode


def greets(name: str, data: bytes, ending: Callable[[Wire], object] = lambda wire: None) -> None:
    """An attack: this is its first word."""

    def attack(fd: int) -> None:
        wire = Wire(fd, greets=False)
        wire.write(data)
        ending(wire)
        sleep()

    AT_START[name] = attack


def begins(name: str, *messages: Any) -> None:
    """An attack: shakes hands, says these messages without waiting, and is silent."""
    greets(name, HANDSHAKE + b"".join(framed(encode(message)) for message in messages))


HELLO_AND_LOADED = framed(encode(Hello(PROTOCOL))) + framed(encode(Loaded()))


@at_start
def never_speaks(fd: int) -> None:
    sleep()


@at_start
def dies_before_it_speaks(fd: int) -> None:
    os._exit(9)


@at_start
def stops_before_it_speaks(fd: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


greets("greets_with_http", b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: " + b"x" * 100 + b"\r\n\r\n")
greets("greets_with_tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
greets("greets_with_zeros", bytes(64))
greets("greets_unsigned", b"\xff" + bytes(9) + GREETING[10:])
greets("greets_with_zmtp_2", GREETING[:10] + b"\x01\x00" + GREETING[12:])
greets("greets_with_curve", GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:])
greets("greets_with_plain", GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:])
greets("greets_for_ever", b"", lambda wire: flood(wire, b"\xff" * 65_536))
greets("greets_with_descriptors", b"", lambda wire: pass_descriptors(wire.socket, 253, GREETING[:1]))
greets("greets_urgently", GREETING[:30], lambda wire: wire.socket.send(b"!", socket.MSG_OOB))
for end, how in ENDINGS.items():
    greets(f"nothing_{end}", b"", how)
    greets(f"half_a_greeting_{end}", GREETING[:40], how)
    greets(f"no_ready_{end}", GREETING, how)
    greets(f"half_a_ready_{end}", HANDSHAKE[:80], how)
    greets(f"half_a_hello_{end}", HANDSHAKE + b"\0", how)
    greets(f"hello_{end}", HANDSHAKE + framed(encode(Hello(PROTOCOL))), how)
greets("ready_of_another_type", GREETING + framed(READY.replace(b"PAIR", b"PUSH"), COMMAND))
greets("ready_of_no_type", GREETING + framed(b"\x05READY", COMMAND))
greets("ready_as_a_message", GREETING + framed(READY))
greets("ready_with_more", GREETING + framed(READY, COMMAND | MORE))
greets("ready_too_long", GREETING + framed(READY + bytes(500), COMMAND))
greets("ready_of_2_to_the_63", GREETING + long_header(1 << 63, COMMAND))
greets("ready_without_end", GREETING + long_header(512, COMMAND) + READY)
greets("another_command", GREETING + framed(b"\x05HELLO", COMMAND))
greets("ready_twice", HANDSHAKE + framed(READY, COMMAND))
begins("hello_of_another_version", Hello(PROTOCOL + 1))
begins("hello_twice", Hello(PROTOCOL), Hello(PROTOCOL))
begins("loaded_before_hello", Loaded(), Hello(PROTOCOL))
begins("failed_before_hello", LoadFailed("x"))
begins("a_result_before_hello", Returned(1, b"forged"))
begins("a_result_before_load", Hello(PROTOCOL), Returned(1, b"forged"))
begins("a_host_call_before_load", Hello(PROTOCOL), HostCall(0, 1, "host_get_timestamp", b""))
begins("a_notice_before_load", Hello(PROTOCOL), Notice(0, "host_log", LOG_LINE))
begins("loaded_before_load", Hello(PROTOCOL), Loaded())
begins("failed_with_escapes", Hello(PROTOCOL), LoadFailed(ESCAPES))
begins("failed_at_length", Hello(PROTOCOL), LoadFailed("T" * TEXT_BYTES))
begins("failed_at_too_great_length", Hello(PROTOCOL), LoadFailed("T" * (TEXT_BYTES + 1)))
greets("a_version_to_come", HANDSHAKE[:10] + b"\x0f\xff" + HANDSHAKE[12:] + HELLO_AND_LOADED)
greets("oversize_before_load", HANDSHAKE + framed(encode(Hello(PROTOCOL))) + long_header(1 << 40))
greets("garbage_for_hello", HANDSHAKE + framed(b"\xc1"))
greets("hello_by_the_million", HANDSHAKE, lambda wire: flood(wire, framed(encode(Hello(PROTOCOL))) * 1000))


@at_start
def greets_slowly(fd: int) -> None:
    """As a worker under load would."""
    wire = Wire(fd, greets=False)
    for byte in HANDSHAKE + framed(encode(Hello(PROTOCOL))):
        wire.write(bytes((byte,)))
        time.sleep(0.0005)
    wire.hear()
    wire.say(Loaded())
    sleep()  # with its socket open


@at_start
def greets_too_slowly(fd: int) -> None:
    wire = Wire(fd, greets=False)
    for byte in HANDSHAKE:
        wire.write(bytes((byte,)))
        time.sleep(0.05)


@at_start
def lets_its_child_speak(fd: int) -> None:
    """What says hello is another process, which behaves, and ends when the supervisor has hung up."""
    if os.fork():
        sleep()
    os._exit(serve(Wire(fd)))
