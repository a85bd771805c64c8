"""Client of one process that forks others: asks for forks, resolves exits, notices when it does not answer.

The zygote is one, and so is each template. A template has compiled what somebody else wrote, so what it says is checked
like a worker's frames: it can fail its own plugin and nobody else.
"""

from __future__ import annotations

import array
import errno
import fcntl
import itertools
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, Protocol

import msgpack

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.shared.forking import PACKET_BYTES
from isoplug.shared.limits import LAST_WORDS_BYTES, WorkerLimits, clip
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pending import Pending
from isoplug.supervisor.pool import kernel
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.link import Silence
from isoplug.supervisor.pool.worker import WorkerProcess

__all__ = ["ForkServer", "ForkServerDied", "Forker"]

_log = get_logger(__name__)

#: How long it may owe an answer without saying anything: a fork takes milliseconds. Longer than that it is stopped or
#: stuck, and another one takes its place.
_SILENCE_SECONDS = 3.0
#: How long a process whose conversation has closed may take to be seen dead.
_DYING_SECONDS = 0.25
#: Above every process id, and above every status of waitpid(2).
_PIDS, _WAIT_STATUSES = 1 << 31, 1 << 16
#: What a send to a process that has ended fails with; EBADF when the hub has closed the socket already.
_DEAD_PEER = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})


class ForkServerDied(SetupError):
    """Nobody answers for the process that was asked for; another one may, when it is asked anew."""

    def __init__(self, last_words: str) -> None:
        super().__init__(
            f"the process that workers are forked from has died: {last_words or 'no message'}; try again, and look at "
            "the machine's free memory and its process limits"
        )


class Forker(Protocol):
    """The process at the other end of a conversation."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self, patience_seconds: float) -> bool:
        """True when it has ended."""
        ...

    def last_words(self) -> str:
        """What it said before it died; it is dead."""
        ...


class _Order(NamedTuple):
    """A fork that was asked for and that somebody waits for."""

    forked: Pending[WorkerProcess]
    stderr_fd: int
    limits: WorkerLimits


class ForkServer:
    """Thread-safe. ``on_word`` hears what it says beside forks and exits, ``on_end`` that it has gone; both are called
    in the hub's thread and must not wait.

    ``control`` is closed when the conversation has ended, or when this cannot be made (OSError).
    """

    def __init__(
        self,
        control: socket.socket,
        forker: Forker,
        hub: Hub,
        lifeline: Lifeline,
        *,
        boot_seconds: float = _SILENCE_SECONDS,
        on_word: Callable[[str, list[Any]], None] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._control = control
        self._forker = forker
        self._hub = hub
        self._lifeline = lifeline
        self._boot_seconds = boot_seconds
        self._on_word = on_word
        self._on_end = on_end
        self._is_dead = False
        self._requests = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[int, _Order] = {}
        self._asked_at: dict[int, float] = {}  # requests without an answer, also those that nobody waits for any more
        self._heard_at: float | None = None
        # Of the hub's thread alone.
        self._children: dict[int, WorkerProcess | None] = {}  # None: nobody wants it any more
        self._is_distrusted = False
        try:
            hub.add(control.fileno(), self._listen)
        except BaseException:
            control.close()
            raise

    @property
    def pid(self) -> int:
        return self._forker.pid

    @property
    def is_alive(self) -> bool:
        return not self._is_dead

    def fork(
        self, order: Sequence[Any], deadline: Deadline, limits: WorkerLimits, fds: Sequence[int] = ()
    ) -> WorkerProcess:
        """A new process; ``fds`` go to it beside the lifeline and its standard error, ``limits`` explain
        its death.

        Raises Silence at the deadline, SetupError when the machine cannot start one, ForkServerDied when another server
        may.
        """
        request = next(self._requests)
        forked: Pending[WorkerProcess] = Pending()
        try:
            with ExitStack() as lent:
                try:
                    lifeline_fd = self._lifeline.new_end()
                    lent.callback(os.close, lifeline_fd)
                    stderr_fd, their_stderr_fd = _make_stderr()
                    lent.callback(os.close, their_stderr_fd)
                except OSError as error:
                    raise SetupError(f"cannot ask for a worker: {error}; free descriptors") from error
                with self._lock:  # also keeps the hub from closing the socket under this send
                    self._pending[request] = _Order(forked, stderr_fd, limits)
                    _send(self._control, msgpack.packb([request, *order]), [lifeline_fd, their_stderr_fd, *fds])
                    self._asked_at[request] = time.monotonic()
            return self._await(forked, deadline)  # last: nothing is left to do in which an interrupt would lose it
        except (TimeoutError, BlockingIOError):  # both are OSErrors, and neither means that it died
            self._give_up(request, forked)
            raise Silence from None
        except OSError as error:
            self._give_up(request, forked)
            if error.errno not in _DEAD_PEER:
                raise SetupError(f"cannot ask for a worker: {error}; free memory or descriptors") from error
            self._is_dead = True  # the hub may need a moment more to see it
            raise ForkServerDied(str(error)) from error
        except BaseException:  # the caller's thread was interrupted, or the server is given up
            self._give_up(request, forked)
            raise

    def end(self, patience_seconds: float) -> None:
        """Ask it to end its children and itself, and kill it when it does not."""
        with self._lock, suppress(OSError):  # it may have died, and the hub closed the socket
            self._control.shutdown(socket.SHUT_WR)  # its own end stays, and tells when it is gone
        self._forker.wait(patience_seconds)
        self.kill()

    def kill(self) -> None:
        self._is_dead = True
        self._forker.kill()
        # A process that it has forked in secret may hold its end of the conversation. What it has said is heard first.
        with self._lock, suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    # --- for callers ----------------------------------------------------------------------------------------------

    def _await(self, forked: Pending[WorkerProcess], deadline: Deadline) -> WorkerProcess:
        while True:
            try:
                return forked.result(min(self._patience_seconds(), deadline.remaining_seconds()))
            except TimeoutError:
                if not self._patience_seconds():
                    self.kill()  # and nothing milder: it would end its children on the way out
                    _log.warning("forker.silent", pid=self.pid, seconds=_SILENCE_SECONDS)
                    raise ForkServerDied("it did not answer") from None
                if deadline.has_passed:
                    raise

    def _patience_seconds(self) -> float:
        """How much longer it may be silent; never negative."""
        with self._lock:
            owing_since = min(self._asked_at.values(), default=time.monotonic())
            if self._heard_at is None:
                silent_at = owing_since + self._boot_seconds
            else:
                silent_at = max(owing_since, self._heard_at) + _SILENCE_SECONDS
        return max(0.0, silent_at - time.monotonic())

    def _give_up(self, request: int, forked: Pending[WorkerProcess]) -> None:
        with self._lock:
            order = self._pending.pop(request, None)
        if order is None:
            forked.add_done_callback(_end_unwanted)  # it is being handed over right now
        else:
            os.close(order.stderr_fd)  # without a reader of its standard error the process dies

    # --- in the hub's thread --------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """One packet. They come in the order in which things happened."""
        try:
            packet, fds = _receive(self._control)
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._bury()
            return
        with ExitStack() as ours:
            for fd in fds:
                ours.callback(os.close, fd)
            if self._is_distrusted:
                return
            try:
                self._hear(packet, fds, ours)
            except (ValueError, TypeError, KeyError, RecursionError) as error:  # msgpack's own are ValueErrors
                _log.error("forker.breach", pid=self.pid, error=str(error)[:200])
                self._is_distrusted = True
                self.kill()

    def _hear(self, packet: bytes, fds: list[int], received: ExitStack) -> None:
        """Raises ValueError and its like for what no honest process says."""
        with self._lock:
            self._heard_at = time.monotonic()
        match msgpack.unpackb(packet):
            case ["forked", int(request), int(pid)] if 0 < pid < _PIDS:
                self._forked(self._answered(request), pid, fds, received)
            case ["refused", int(request), str(reason)]:
                error = SetupError(f"cannot fork a worker: {clip(reason)}; free processes or descriptors")
                _settle(self._answered(request), error)
            case ["exited", int(pid), int(wait_status), int(peak_bytes), int() | float() as cpu_seconds] if (
                0 <= wait_status < _WAIT_STATUSES and peak_bytes >= 0 and 0 <= cpu_seconds < math.inf
            ):
                process = self._children[pid]
                if process is not None:
                    process.report_exit(wait_status, peak_bytes, float(cpu_seconds))
                del self._children[pid]
            case [str(word), *facts] if self._on_word is not None:
                self._on_word(word, facts)
            case _:
                raise ValueError("no known packet")

    def _forked(self, order: _Order | None, pid: int, fds: list[int], received: ExitStack) -> None:
        if pid in self._children:
            _settle(order, ForkServerDied("it forked one process twice"))
            raise ValueError("it forked one process twice")
        self._children[pid] = None
        if not fds:  # the kernel drops descriptors that this process has no room for
            _settle(order, SetupError("no descriptor is free for a worker; close some, or raise `ulimit -n`"))
        elif order is not None:
            try:
                kernel.require_child(pid, fds[0], self.pid)
            except OSError as error:
                _settle(order, SetupError(f"cannot look at a new worker: {error}; free descriptors"))
                return
            except ValueError as breach:
                _settle(order, ForkServerDied(str(breach)))
                raise
            received.pop_all()
            process = WorkerProcess(pid, fds[0], order.stderr_fd, order.limits)
            self._children[pid] = process
            order.forked.set_result(process)

    def _answered(self, request: int) -> _Order | None:
        """None when whoever asked has given up. Raises KeyError when nobody has asked."""
        with self._lock:
            del self._asked_at[request]
            return self._pending.pop(request, None)

    def _bury(self) -> None:
        """The conversation has ended: fail whoever waits for a fork. The children go on."""
        with self._lock:
            self._is_dead = True
            self._hub.remove(self._control.fileno())
            self._control.close()
            waiting = [self._pending.pop(request) for request in tuple(self._pending)]
            orphans = [process for process in self._children.values() if process is not None]
            self._children.clear()
        if not self._forker.wait(_DYING_SECONDS):  # or a death of its own would be taken for ours
            self._forker.kill()
        last_words = self._forker.last_words()
        for order in waiting:
            _settle(order, ForkServerDied(last_words))
        for orphan in orphans:
            self._adopt(orphan)
        self._on_end()

    def _adopt(self, orphan: WorkerProcess) -> None:
        """Tell of its end, which nobody else does any more."""
        try:
            pidfd = orphan.watch()
        except (ServiceError, OSError):  # it has been ended; or no descriptor is free, and its next caller notices
            return

        def on_end() -> None:
            self._hub.remove(pidfd)
            orphan.report_exit(kernel.wait_status(orphan.pid, pidfd))
            os.close(pidfd)

        try:
            self._hub.add(pidfd, on_end)
        except OSError:
            os.close(pidfd)


def _send(control: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    """Without waiting: one that does not read is stopped, and must not stop its supervisor as well."""
    # socket.send_fds takes flags and forgets them; so does socket.recv_fds.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    control.sendmsg([packet], [rights], socket.MSG_DONTWAIT)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """One packet, and at most one descriptor, which no program that the host starts inherits. Raises OSError."""
    room = socket.CMSG_LEN(array.array("i").itemsize)
    flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    packet, ancillary, _, _ = control.recvmsg(PACKET_BYTES, room, flags)
    fds = array.array("i")
    for _, _, rights in ancillary:  # SCM_RIGHTS: nothing else was asked for
        fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    return packet, fds.tolist()


def _settle(order: _Order | None, error: Exception) -> None:
    if order is not None:
        os.close(order.stderr_fd)
        order.forked.set_exception(error)


def _make_stderr() -> tuple[int, int]:
    """A small pipe, no end of which ever waits: the read end, and the write end for the new process."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, LAST_WORDS_BYTES)
    except BaseException:
        os.close(read_end)
        os.close(write_end)
        raise
    return read_end, write_end


def _end_unwanted(forked: Pending[WorkerProcess]) -> None:
    if forked.exception() is None:
        forked.result().kill()
        forked.result().close()
