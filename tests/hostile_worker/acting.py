"""The attacks by name, what many of them are made of, and the life of a worker until one is asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from hostile_worker.wire import STOP, Wire
from isoplug.shared.messages import PROTOCOL, Failed, FailureKind, Hello, Loaded, Returned

HOSTILE: Final = "test.hostile"

Attack = Callable[[Wire, int, bytes], bytes | None]

#: By name; the tests say what has to come of each.
IN_A_CALL: dict[str, Attack] = {}
AT_START: dict[str, Callable[[int], None]] = {}


def in_a_call(attack: Attack) -> Attack:
    IN_A_CALL[attack.__name__] = attack
    return attack


def at_start(attack: Callable[[int], None]) -> Callable[[int], None]:
    AT_START[attack.__name__] = attack
    return attack


def sleep() -> None:
    while True:
        time.sleep(10)


def says(name: str, message: Callable[[int], Any]) -> None:
    """An attack: one message, well framed, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(message(call))
        sleep()

    IN_A_CALL[name] = attack


def fails(name: str, kind: str, text: str) -> None:
    """An attack: the call fails, and the worker goes on."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(Failed(call, kind, text))
        os._exit(go_on(wire))

    IN_A_CALL[name] = attack


def packs(name: str, body: Callable[[int], bytes]) -> None:
    """An attack: one frame with this body, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.frame(body(call))
        sleep()

    IN_A_CALL[name] = attack


def writes(name: str, *pieces: bytes) -> None:
    """An attack: these bytes, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        for piece in pieces:
            wire.write(piece)
        sleep()

    IN_A_CALL[name] = attack


@in_a_call
def behaves(wire: Wire, call: int, data: bytes) -> None:
    """None at all."""


@in_a_call
def leaves(wire: Wire, call: int, data: bytes) -> None:
    os._exit(0)


ENDINGS: dict[str, Callable[[Wire], object]] = {
    "and_silence": lambda wire: sleep(),
    "and_close": lambda wire: wire.socket.close(),
    "and_half_close": lambda wire: wire.socket.shutdown(socket.SHUT_WR),
    "and_death": lambda wire: os._exit(9),
    "and_sigkill": lambda wire: os.kill(os.getpid(), signal.SIGKILL),
    "and_sigstop": lambda wire: os.kill(os.getpid(), signal.SIGSTOP),
}


def serve(wire: Wire) -> int:
    """A worker's life, until an attack is asked for."""
    wire.say(Hello(PROTOCOL))
    wire.hear()
    wire.say(Loaded())
    return go_on(wire)


def go_on(wire: Wire) -> int:
    while True:
        tag, *fields = wire.hear()
        if tag == STOP:
            return 0
        call, export, data = (*fields, b"")[:3]
        if export == "manifest":
            manifest = {"id": HOSTILE, "name": "x", "version": "1", "description": "x", "capabilities": []}
            wire.say(Returned(call, json.dumps(manifest).encode()))
        elif attack := IN_A_CALL.get(export):
            answer = attack(wire, call, data)
            wire.say(Returned(call, b"honest" if answer is None else answer))
        else:
            wire.say(Failed(call, FailureKind.MISSING, ""))
