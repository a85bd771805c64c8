"""The worker's end of the socket to its supervisor: one message a frame (``isoplug.shared.zmtp``).

It is read and written as a file: that takes two system calls which every process may make anyway, and none of those of
sockets, with which descriptors and urgent bytes could be sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from isoplug.shared.limits import EXIT_PROTOCOL
from isoplug.shared.messages import FromWorker, ToWorker, decode_to_worker, encode_in_pieces
from isoplug.shared.zmtp import HANDSHAKE, Inflow, framed_in_pieces

__all__ = ["Link"]


class Link:
    """Blocking both ways: a worker has nothing to do but wait for its supervisor, and ends when that has hung up.

    It does not return then: a guest is below some callers, and would go on.
    """

    def __init__(self, fd: int, max_bytes: int) -> None:
        """``fd`` is this end of the socket, ``max_bytes`` bounds a frame."""
        self._fd = fd
        self._inflow = Inflow(max_bytes)
        self._write([HANDSHAKE])
        while not self._inflow.has_shaken_hands():
            self._read()

    def send(self, message: FromWorker) -> None:
        self._write(framed_in_pieces(encode_in_pieces(message)))

    def receive(self) -> ToWorker:
        """The next message. Raises MalformedMessage or Malformed when the supervisor's version is another one."""
        while (message := self._inflow.take(decode_to_worker)) is None:
            self._read()
        return message

    def _write(self, pieces: Sequence[bytes]) -> None:
        try:
            written = os.writev(self._fd, pieces)
        except ConnectionError:
            os._exit(EXIT_PROTOCOL)
        if written != sum(map(len, pieces)):  # a signal came in between
            self._write([b"".join(pieces)[written:]])

    def _read(self) -> None:
        try:
            count = os.readv(self._fd, (self._inflow.room(),))
        except ConnectionError:
            count = 0
        if not count:
            os._exit(EXIT_PROTOCOL)
        self._inflow.arrived(count)
