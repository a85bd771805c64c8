"""The supervisor's end of the socket to one worker.

House rules: every wait ends at a deadline, everything a worker can do wrong comes out as one of three exceptions, and
what it sends while nobody listens stays in the kernel's buffer, which blocks it. The socket may be used by any thread,
one at a time; a lease is the lock that says which.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from isoplug.shared.errors import SetupError
from isoplug.shared.limits import FRAME_OVERHEAD_BYTES
from isoplug.shared.messages import FromWorker, MalformedMessage, ToWorker, decode_from_worker, encode_in_pieces
from isoplug.shared.zmtp import HANDSHAKE, Inflow, Malformed, framed_in_pieces
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import kernel

__all__ = ["Breach", "Gone", "Link", "Patience", "Silence", "open_pair"]

#: Longest wait in one piece: a Ctrl-C that comes just before the system call does not interrupt it.
_SLICE_MS = 500
#: From <asm-generic/socket.h>, since Linux 6.16; Python has no name for it yet.
_SO_PASSRIGHTS = 83


#: Asked before each wait for a worker how many seconds it may last. May raise.
Patience: TypeAlias = Callable[[], float]
#: Of a message, in pieces: what was not sent yet.
Rest: TypeAlias = list[bytes | memoryview]


class Silence(Exception):
    """The deadline passed."""


class Gone(Exception):
    """The worker's process has ended."""


class Breach(Exception):
    """The worker broke the protocol; the text says how."""


def open_pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and a worker's, with no name that anybody could find them by. Raises SetupError."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise SetupError(f"cannot make a socket for a worker: {error}; free descriptors") from error
    ours.setblocking(False)
    _refuse_descriptors(ours)
    ours.send(HANDSHAKE)  # the kernel keeps it until there is a worker
    return ours, theirs


class Link:
    """``connection`` is the first of ``open_pair``, ``pidfd`` that of the worker, which is not closed here."""

    def __init__(self, connection: socket.socket, pidfd: int, frame_bytes: int) -> None:
        self._socket = connection
        self._pidfd = pidfd
        self._inflow = Inflow(frame_bytes + FRAME_OVERHEAD_BYTES)
        self._poll = self._poll_for(select.POLLIN)

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        """Raises Gone, Breach, or Silence when the worker does not read what it is sent."""
        self.send_rest([*framed_in_pieces(encode_in_pieces(message))], deadline)

    def try_send(self, message: ToWorker) -> Rest:
        """What is left of it, because the socket took no more, or none: for ``send_rest``. Does not wait."""
        rest: Rest = [*framed_in_pieces(encode_in_pieces(message))]
        with suppress(OSError):
            _drop(rest, self._send_now(rest))
        return rest

    def send_rest(self, rest: Rest, deadline: Deadline) -> None:
        """Raises what ``send`` does."""
        while rest:
            try:
                _drop(rest, self._send_now(rest))
            except BlockingIOError:
                pass
            except OSError:  # the other end is closed
                self._raise_end()
            if rest:
                self._wait(self._poll_for(select.POLLOUT), deadline)

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker:
        """The next message. Raises Silence, Gone or Breach, and what ``patience`` does.

        The deadline counts even while messages keep coming: a worker that floods is stopped like one that is silent.
        """
        if deadline.has_passed:
            raise Silence
        while (message := self._take()) is None:
            self._wait(self._poll, deadline, patience)
            self._read()
        return message

    def try_receive(self) -> FromWorker | None:
        """The next message if it has arrived, as a whole. Does not wait. Raises Breach.

        None as well when the worker has ended: ``receive`` finds out how, which may take a moment.
        """
        with suppress(OSError):
            self._inflow.arrived(self._socket.recv_into(self._inflow.room()))
        return self._take()

    def feed(self, data: bytes) -> None:
        """``data`` has come from the worker. For fault injection as well, when nobody receives."""
        self._inflow.feed(data)

    def send_raw(self, data: bytes, deadline: Deadline) -> None:
        """What is no message, or a part of one; for fault injection. Raises what ``send`` does."""
        self.send_rest([data], deadline)

    def fileno(self) -> int:
        """What becomes readable when the worker has sent something, or has ended."""
        return self._socket.fileno()

    def is_quiet(self) -> bool:
        """The worker lives, and sent nothing that nobody asked for."""
        return self._inflow.is_empty and not self._poll.poll(0)

    def has_spoken(self) -> bool:
        """It sent something that nobody asked for. False for what ends just now: a dying process closes its socket a
        moment before it is dead."""
        if not self._inflow.is_empty:
            return True
        return any(
            event & select.POLLIN and not event & select.POLLHUP
            for fd, event in self._poll.poll(0)
            if fd != self._pidfd
        )

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _take(self) -> FromWorker | None:
        """The next message, if it has arrived as a whole. Raises Breach."""
        try:
            return self._inflow.take(decode_from_worker)
        except (MalformedMessage, Malformed) as error:
            raise Breach(f"it sent {error}") from error

    def _send_now(self, pieces: Rest) -> int:
        if len(pieces) == 1:  # most messages; this takes less
            return self._socket.send(pieces[0], socket.MSG_NOSIGNAL)
        return self._socket.sendmsg(pieces, (), socket.MSG_NOSIGNAL)

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._inflow.room())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._raise_end()
        self._inflow.arrived(count)

    def _poll_for(self, event: int) -> select.poll:
        """Of the socket, and of the process's end: somebody else may have a copy of a dead worker's socket."""
        poll = select.poll()
        poll.register(self._socket, event)
        poll.register(self._pidfd, select.POLLIN)
        return poll

    def _wait(self, poll: select.poll, deadline: Deadline, patience: Patience | None = None) -> None:
        """Until the socket is ready. Raises Silence, and Gone when nothing is left in the socket of a dead worker."""
        while True:
            remaining_ms = deadline.remaining_ms()
            if not remaining_ms:
                raise Silence
            slice_ms = _SLICE_MS if patience is None else min(_SLICE_MS, math.ceil(patience() * 1000))
            if ready := poll.poll(min(remaining_ms, slice_ms)):
                if ready[0][0] == self._pidfd:  # the socket would stand before it
                    raise Gone
                return

    def _raise_end(self) -> None:
        """The worker's end of the socket is closed."""
        if kernel.is_dying(self._pidfd):
            raise Gone
        raise Breach("it closed its socket")


def _drop(rest: Rest, sent: int) -> None:
    while rest and sent >= len(rest[0]):
        sent -= len(rest.pop(0))
    if sent:
        rest[0] = memoryview(rest[0])[sent:]


def _refuse_descriptors(connection: socket.socket) -> None:
    """The kernel closes a passed descriptor inside ``recv``, and closing one may wait: a TCP connection's, with
    SO_LINGER, for as long as its sender likes. An older kernel lets them in; there the seccomp layer sees to it that a
    worker has none that waits."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
