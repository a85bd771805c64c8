"""The worker's door to ZeroMQ: one PAIR socket to the supervisor, one message a frame."""

from __future__ import annotations

import zmq

from isoplug.shared.messages import FromWorker, ToWorker, decode_to_worker, encode

__all__ = ["Link"]

#: How long a leaving worker lets libzmq deliver its last message, in milliseconds.
_LINGER_MS = 1_000


class Link:
    """Blocking both ways: a worker has nothing to do but wait for its supervisor, and dies with it."""

    def __init__(self, socket_path: str) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = _LINGER_MS
        self._socket.connect(f"ipc://{socket_path}")

    def send(self, message: FromWorker) -> None:
        self._socket.send(encode(message), copy=True)

    def receive(self) -> ToWorker:
        """The next message. Raises MalformedMessage when the supervisor's version is another one."""
        return decode_to_worker(self._socket.recv())

    def close(self) -> None:
        """Deliver what was sent, then close."""
        self._socket.close()
        self._context.term()
