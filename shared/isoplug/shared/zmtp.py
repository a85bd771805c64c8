"""ZeroMQ's wire protocol, as far as one PAIR socket speaks it to another (ZMTP 3.1, rfc.zeromq.org/spec/37). No I/O.

Neither a supervisor nor its workers use libzmq. It keeps an unfinished message of many parts without any bound, ends
the whole process when accept(2) finds no descriptor, and would parse a hostile process's bytes in C++ in the one
process that must not fall; in a worker its thread takes two more wake-ups and some twenty system calls for each
message, and all of them would have to be allowed. Here nothing is kept but the frame that is just arriving, and that is
bounded:

    greeting (64 bytes, both ways) · READY (both ways) · one message a frame, for ever

A part of a longer message, a command after READY, or a frame that is too long is a breach.
"""

from __future__ import annotations

__all__ = ["HANDSHAKE", "Inflow", "Malformed", "framed"]

_GREETING_BYTES = 64
_SIGNATURE_START, _SIGNATURE_END = 0xFF, 0x7F
_MAJOR = 3
_MECHANISM = b"NULL".ljust(20, b"\0")

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_BYTES = 255
#: A READY has a socket type and an identity; libzmq's has 41 bytes.
_READY_BYTES = 512
_READY_NAME = b"\x05READY"
_SOCKET_TYPE = b"\x0bSocket-Type\0\0\0\4PAIR"

_GREETING = (
    bytes([_SIGNATURE_START]) + bytes(8) + bytes([_SIGNATURE_END, _MAJOR, 1]) + _MECHANISM + bytes(_GREETING_BYTES - 32)
)
_READY = _READY_NAME + _SOCKET_TYPE

#: What we say first, whatever the other side says; and nothing more before a message has come. libzmq takes what
#: follows our READY for a part of the handshake until it has sent its own, and hangs up.
HANDSHAKE = _GREETING + bytes([_COMMAND, len(_READY)]) + _READY


class Malformed(Exception):
    """The other side does not speak the protocol; the text says how."""


def framed(message: bytes) -> bytes:
    """``message`` as it goes over the wire."""
    size = len(message)
    if size <= _SHORT_BYTES:
        return bytes((0, size)) + message
    return bytes((_LONG,)) + size.to_bytes(8, "big") + message


class Inflow:
    """What the other side sends: ``feed`` takes bytes as they come, ``take`` gives whole messages.

    Holds at most one frame of ``max_bytes`` and what was fed beyond it, as long as ``feed`` is called only after
    ``take`` had nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._has_greeted = False
        self._is_ready = False

    @property
    def is_empty(self) -> bool:
        """Nothing has arrived that was not taken."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> bytes | None:
        """The next message, or None when it has not arrived yet. Raises Malformed."""
        if not self.has_shaken_hands():
            return None
        frame = self._next_frame(self._max_bytes)
        if frame is None:
            return None
        flags, message = frame
        if flags & _COMMAND:
            raise Malformed("a command instead of a message")
        return message

    def has_shaken_hands(self) -> bool:
        """The other side's handshake has arrived. Raises Malformed."""
        if self._is_ready:
            return True
        if not self._has_greeted:
            if len(self._buffer) < _GREETING_BYTES:
                return False
            _check_greeting(self._buffer)
            del self._buffer[:_GREETING_BYTES]
            self._has_greeted = True
        frame = self._next_frame(_READY_BYTES)
        if frame is None:
            return False
        flags, body = frame
        if not flags & _COMMAND or not body.startswith(_READY_NAME) or _SOCKET_TYPE not in body:
            raise Malformed("no handshake of a PAIR socket")
        self._is_ready = True
        return True

    def _next_frame(self, max_bytes: int) -> tuple[int, bytes] | None:
        """Flags and body."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        flags = buffer[0]
        if flags & ~(_LONG | _COMMAND):
            raise Malformed("a message of several frames" if flags & _MORE else "a frame of an unknown kind")
        if not flags & _LONG:
            begin, size = 2, buffer[1]
        elif len(buffer) < 9:
            return None
        else:
            begin, size = 9, int.from_bytes(buffer[1:9], "big")
        if size > max_bytes:
            raise Malformed(f"a frame of {size} bytes, {max_bytes} is the limit")
        if len(buffer) < begin + size:
            return None
        body = bytes(memoryview(buffer)[begin : begin + size])
        del buffer[: begin + size]
        return flags, body


def _check_greeting(greeting: bytearray) -> None:
    is_signed = greeting[0] == _SIGNATURE_START and greeting[9] == _SIGNATURE_END
    if not is_signed or greeting[10] < _MAJOR or greeting[12:32] != _MECHANISM:
        raise Malformed("no greeting of ZMTP 3")
