"""The worker's end of the socket to its supervisor: one message a frame (``isoplug.shared.zmtp``)."""

from __future__ import annotations

import os
import socket

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

    def __init__(self, socket_path: str, max_bytes: int) -> None:
        """``socket_path`` is relative to the working folder; ``max_bytes`` bounds a frame."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(socket_path)
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
        try:
            self._socket.sendall(data)
        except ConnectionError:
            os._exit(EXIT_PROTOCOL)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(EXIT_PROTOCOL)
        self._inflow.feed(data)
