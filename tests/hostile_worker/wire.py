"""ZMTP by hand, and other bytes: what attacks put on the wire."""

from __future__ import annotations

import array
import os
import socket
from typing import Any, Final

import msgpack

from isoplug.shared.messages import encode

FRAME_BYTES: Final = 32 << 20
"""``limits.frame`` by default."""

MORE, LONG, COMMAND = 1, 2, 4
#: Tags of messages to a worker.
INVOKE, STOP = 1, 3
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type\0\0\0\x04PAIR\x08Identity\0\0\0\0"
#: What a terminal and a log would do with it, were it written as it is.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00.000Z ERROR forged plugin=x \u202e\x9b31m\x00"
LOG_LINE = b'{"level":"info","message":"x"}'
BIG_LOG_LINE = b'{"level":"info","message":"' + b"x" * 60_000 + b'"}'


def framed(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body


def long_header(size: int, flags: int = 0) -> bytes:
    return bytes((flags | LONG,)) + size.to_bytes(8, "big")


HANDSHAKE = GREETING + framed(READY, COMMAND)


class Wire:
    """ZMTP by hand. ``unread`` counts the bytes of the last frame that were left where they are."""

    def __init__(self, fd: int, *, greets: bool = True) -> None:
        self.socket = socket.socket(fileno=fd)
        self.unread = 0
        self._has_heard = False
        if greets:
            self.write(HANDSHAKE)

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, body: bytes, flags: int = 0) -> None:
        self.write(framed(body, flags))

    def say(self, message: Any) -> None:
        self.frame(encode(message))

    def hear(self) -> list[Any]:
        """[tag, *fields]; the last field of an ``Invoke`` whose export begins with "unread" is cut off."""
        if not self._has_heard:
            self._has_heard = True
            self._exactly(64)
            self._exactly(self._exactly(2)[1])
        flags = self._exactly(1)[0]
        size = int.from_bytes(self._exactly(8), "big") if flags & LONG else self._exactly(1)[0]
        head = self._exactly(min(size, 200))
        self.unread = size - len(head)
        parser = msgpack.Unpacker()
        parser.feed(head)
        length = parser.read_array_header()
        fields = [parser.unpack() for _ in range(min(length, 3))]
        if fields[0] == INVOKE and fields[2].startswith("unread"):
            return fields
        body = head + self._exactly(self.unread)
        self.unread = 0
        return list(msgpack.unpackb(body))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self.socket.recv(min(size - len(data), 1 << 16))
            if not chunk:
                os._exit(0)
            data += chunk
        return bytes(data)


def flood(wire: Wire, data: bytes) -> None:
    """By write(2), which the kernel counts in /proc/<pid>/io."""
    while True:
        os.write(wire.socket.fileno(), data)


def pass_descriptors(connection: socket.socket, count: int, data: bytes, fd: int = 0) -> bool:
    """Beside ``data``, which goes alone when the other side refuses them (False)."""
    rights = array.array("i", [fd] * count)
    try:
        connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except PermissionError:
        connection.sendall(data)
        return False
    return True
