"""The supervisor's door to ZeroMQ: the PAIR socket of one worker, and the two things one waits for there.

House rules: sends never block, receives end at a deadline, and everything a worker can do wrong comes out as one of
three exceptions. The socket may be used by any thread, one at a time; a lease is the lock that says which.
"""

from __future__ import annotations

import select
from typing import Any

import zmq

from isoplug.shared.errors import SetupError
from isoplug.shared.limits import FRAME_OVERHEAD_BYTES
from isoplug.shared.messages import FromWorker, MalformedMessage, ToWorker, decode_from_worker, encode
from isoplug.supervisor.deadline import Deadline

__all__ = ["Breach", "Gone", "Link", "Silence", "open_context"]

#: After a worker's death its last frames may still be in libzmq's I/O thread; they get this long, in milliseconds.
_LAST_WORDS_MS = 5
#: How long a process that no longer reads may take to be seen dead, in milliseconds.
_DYING_MS = 250
#: Longest wait in one piece.
_SLICE_MS = 500
#: Frames that libzmq holds each way (its own default is 1,000). Notices, of which there may be many, are small
#: (``NOTICE_BYTES``); everything else waits for its answer. Fewer would have the two sides signal more often.
_WAITING_FRAMES = 100


class Silence(Exception):
    """The deadline passed."""


class Gone(Exception):
    """The worker's process has ended."""


class Breach(Exception):
    """The worker broke the protocol; the text says how."""


def open_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One context a supervisor: one I/O thread serves all its workers."""
    return zmq.Context(io_threads=1)


class Link:
    """Bound before the worker is forked; ``watch`` says whose death ends a wait."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket_path: str, frame_bytes: int) -> None:
        try:
            self._socket = context.socket(zmq.PAIR)
        except zmq.ZMQError as error:
            raise SetupError(f"cannot make a socket for a worker: {error}; free descriptors") from error
        self._socket.linger = 0
        self._socket.maxmsgsize = frame_bytes + FRAME_OVERHEAD_BYTES
        self._socket.rcvhwm = self._socket.sndhwm = _WAITING_FRAMES
        try:
            self._socket.bind(f"ipc://{socket_path}")
        except zmq.ZMQError as error:
            self._socket.close()
            raise SetupError(
                f"cannot make the socket {socket_path}: {error}; start a new Supervisor if something removed its folder"
            ) from error
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._pidfd = -1

    def watch(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._poller.register(pidfd, zmq.POLLIN)

    def send(self, message: ToWorker) -> None:
        """Raises Gone, or Breach when the worker does not read what it is sent."""
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # A dying process loses its sockets a moment before it is dead.
            if _is_readable(self._pidfd, _DYING_MS):
                raise Gone from None
            raise Breach("it does not read its socket") from None

    def receive(self, deadline: Deadline) -> FromWorker:
        """The next message. Raises Silence, Gone or Breach.

        The deadline counts even while messages keep coming: a worker that floods is stopped like one that is silent.
        """
        ready: list[Any] = []
        while not ready:
            remaining_ms = deadline.remaining_ms()
            if not remaining_ms:
                raise Silence
            # In slices: a Ctrl-C that comes just before the system call does not interrupt it.
            ready = self._poller.poll(min(remaining_ms, _SLICE_MS))
        if ready[0][0] is not self._socket and not self._socket.poll(_LAST_WORDS_MS):
            raise Gone
        return self._read()

    def is_quiet(self) -> bool:
        """The worker lives, and sent nothing that nobody asked for."""
        return not self._poller.poll(0)

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> FromWorker:
        frame = self._socket.recv(zmq.NOBLOCK)
        if self._socket.get(zmq.RCVMORE):
            raise Breach("it sent a message of several frames")
        try:
            return decode_from_worker(frame)
        except MalformedMessage as error:
            raise Breach(f"it sent {error}") from error


def _is_readable(fd: int, patience_ms: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience_ms))
