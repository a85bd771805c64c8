"""The worker's door to ZeroMQ: one PAIR socket to the supervisor, one message a frame."""

from __future__ import annotations

import zmq

from isoplug.shared.messages import FromWorker, ToWorker, decode_to_worker, encode

__all__ = ["Link", "library_version"]

#: A supervisor that has closed the socket does not come back, and this process could not connect again.
_NEVER = -1


class Link:
    """Blocking both ways: a worker has nothing to do but wait for its supervisor, and dies with it."""

    def __init__(self, socket_path: str) -> None:
        """``socket_path`` is relative to the working folder."""
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.reconnect_ivl = _NEVER
        self._socket.connect(f"ipc://{socket_path}")

    def send(self, message: FromWorker) -> None:
        self._socket.send(encode(message), copy=True)

    def receive(self) -> ToWorker:
        """The next message. Raises MalformedMessage when the supervisor's version is another one."""
        return decode_to_worker(self._socket.recv())


def library_version() -> str:
    """Of libzmq."""
    return zmq.zmq_version()
