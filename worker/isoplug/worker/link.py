"""The worker's end of the socket to its supervisor: one message a frame (``isoplug.shared.zmtp``).

It is read and written as a file: that takes two system calls which every process may make anyway, and none of those of
sockets, with which descriptors and urgent bytes could be sent.
"""

from __future__ import annotations

import os

from isoplug.shared.limits import EXIT_PROTOCOL
from isoplug.shared.messages import FromWorker, ToWorker, decode_to_worker, encode
from isoplug.shared.zmtp import HANDSHAKE, Inflow, framed

__all__ = ["Link"]

#: Read at once; most messages are shorter.
_CHUNK_BYTES = 64 * 1024


class Link:
    """Blocking both ways: a worker has nothing to do but wait for its supervisor, and ends when that has hung up.

    It does not return then: a guest is below some callers, and would go on.
    """

    def __init__(self, fd: int, max_bytes: int) -> None:
        """``fd`` is this end of the socket, ``max_bytes`` bounds a frame."""
        self._fd = fd
        self._inflow = Inflow(max_bytes)
        self._write(HANDSHAKE)
        while not self._inflow.has_shaken_hands():
            self._read()

    def send(self, message: FromWorker) -> None:
        self._write(framed(encode(message)))

    def receive(self) -> ToWorker:
        """The next message. Raises MalformedMessage or Malformed when the supervisor's version is another one."""
        while (message := self._inflow.take()) is None:
            self._read()
        return decode_to_worker(message)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:  # a signal may come in between
                rest = rest[os.write(self._fd, rest) :]
        except ConnectionError:
            os._exit(EXIT_PROTOCOL)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(EXIT_PROTOCOL)
        self._inflow.feed(data)
