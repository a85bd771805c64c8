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

import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

__all__ = ["HANDSHAKE", "Inflow", "Malformed", "framed", "framed_in_pieces"]

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


#: A buffer to begin with: most messages are shorter, and there is one for each worker.
_BUFFER_BYTES = 16 * 1024
#: How much longer a buffer may be than what is in it.
_GROWTH = 4
#: The last buffer that was longer, at most one for the process: pages that are new for every long message take longer
#: than all that is done with it. Of the longest messages nothing stays.
_SPARE_BYTES = 12 << 20
_spare: list[memoryview] = []

_Read = TypeVar("_Read")


class Malformed(Exception):
    """The other side does not speak the protocol; the text says how."""


def framed(message: bytes) -> bytes:
    """``message`` as it goes over the wire."""
    return _header(len(message)) + message


def framed_in_pieces(message: Sequence[bytes]) -> list[bytes]:
    """The same for a message in pieces, of which only the first is copied."""
    first, *others = message
    return [_header(sum(map(len, message))) + first, *others]


def _header(size: int) -> bytes:
    if size <= _SHORT_BYTES:
        return bytes((0, size))
    return bytes((_LONG,)) + size.to_bytes(8, "big")


class Inflow:
    """What the other side sends. Who reads puts it into ``room``, says how much has ``arrived``, and may then ``take``
    whole messages; when there is none left, there is ``room`` again.

    Holds at most one frame of ``max_bytes`` and what came with its end. An announced size alone takes no memory: the
    buffer is at most a few times as long as what is in it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._has_greeted = False
        self._is_ready = False
        self._buffer = self._own = memoryview(bytearray(_BUFFER_BYTES))
        self._begin = self._end = 0  # of what has arrived and was not taken
        self._frame_bytes = 0  # of the frame at ``_begin`` with its header, once that has arrived

    @property
    def is_empty(self) -> bool:
        """Nothing has arrived that was not taken."""
        return self._begin == self._end

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room()
        return self._buffer[self._end :]

    def arrived(self, count: int) -> None:
        """``count`` bytes have been put into ``room``."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """``data`` has arrived, however long it is."""
        rest = memoryview(data)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.arrived(count)
            rest = rest[count:]

    def take(self, read: Callable[[memoryview], _Read]) -> _Read | None:
        """What ``read`` makes of the next message, or None when that has not arrived yet. What it is given is no
        longer valid when it has returned. Raises Malformed, and what ``read`` does."""
        if not self._is_ready and not self.has_shaken_hands():
            return None
        frame = self._next_frame(self._max_bytes)
        if frame is None:
            return None
        flags, message = frame
        if flags & _COMMAND:
            raise Malformed("a command instead of a message")
        result = read(message)
        if self._buffer is not self._own and self._begin == self._end:
            self._shrink()
        return result

    def has_shaken_hands(self) -> bool:
        """The other side's handshake has arrived. Raises Malformed."""
        if self._is_ready:
            return True
        if not self._has_greeted:
            if self._end < _GREETING_BYTES:
                return False
            _check_greeting(bytes(self._buffer[:_GREETING_BYTES]))
            self._begin = _GREETING_BYTES
            self._has_greeted = True
        frame = self._next_frame(_READY_BYTES)
        if frame is None:
            return False
        flags, body = frame[0], bytes(frame[1])
        if not flags & _COMMAND or not body.startswith(_READY_NAME) or _SOCKET_TYPE not in body:
            raise Malformed("no handshake of a PAIR socket")
        self._is_ready = True
        return True

    def _next_frame(self, max_bytes: int) -> tuple[int, memoryview] | None:
        """Flags and body."""
        buffer, begin = self._buffer, self._begin
        have = self._end - begin
        if have < 2:
            return None
        flags = buffer[begin]
        if flags & ~(_LONG | _COMMAND):
            raise Malformed("a message of several frames" if flags & _MORE else "a frame of an unknown kind")
        if not flags & _LONG:
            before, size = 2, buffer[begin + 1]
        elif have < 9:
            return None
        else:
            before, size = 9, int.from_bytes(buffer[begin + 1 : begin + 9], "big")
        if size > max_bytes:
            raise Malformed(f"a frame of {size} bytes, {max_bytes} is the limit")
        if have < before + size:
            self._frame_bytes = before + size
            return None
        self._begin = end = begin + before + size
        self._frame_bytes = 0
        return flags, buffer[begin + before : end]

    def _shrink(self) -> None:
        if len(self._buffer) <= _SPARE_BYTES:
            _spare[:] = (self._buffer,)
        self._buffer = self._own

    def _make_room(self) -> None:
        """The buffer is full to its end."""
        have = self._end - self._begin
        wanted = self._frame_bytes if self._frame_bytes > have else 2 * have
        size = max(_BUFFER_BYTES, min(wanted, _GROWTH * have))
        buffer = self._buffer if size <= len(self._buffer) else _longer_buffer(size, self._frame_bytes)
        buffer[:have] = self._buffer[self._begin : self._end]
        self._buffer = buffer
        self._begin, self._end = 0, have


def _longer_buffer(size: int, frame_bytes: int) -> memoryview:
    """Of ``size`` at least; the spare one when a frame of ``frame_bytes`` fits into it."""
    with suppress(IndexError):  # there is none, or another thread has just taken it
        spare = _spare.pop()
        if len(spare) >= max(size, frame_bytes):
            return spare
    try:
        # From the kernel, and back to it: freed from the heap, a long one would stay with the process.
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes") from error


def _check_greeting(greeting: bytes) -> None:
    is_signed = greeting[0] == _SIGNATURE_START and greeting[9] == _SIGNATURE_END
    if not is_signed or greeting[10] < _MAJOR or greeting[12:32] != _MECHANISM:
        raise Malformed("no greeting of ZMTP 3")
