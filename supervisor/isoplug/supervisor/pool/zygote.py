"""Client of the zygote: asks for forks, resolves exits, replaces a zygote that died."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import msgpack

from isoplug.shared.errors import SetupError, SupervisorClosed
from isoplug.shared.limits import WorkerLimits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.link import Silence
from isoplug.supervisor.pool.worker import ExitStatus, WorkerProcess

__all__ = ["Zygote"]

_log = get_logger(__name__)

_PACKET_BYTES = 65_536
_STDERR_BYTES = 4_096
#: How long a zygote may take to end its workers and itself once its control socket is closed.
_FAREWELL_SECONDS = 2.0
#: What a send to a process that has ended fails with; EBADF when the reader has closed the socket already.
_DEAD_PEER = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})

# A fresh interpreter, isolated (-I: no PYTHON* variables, no user site, no current folder), is told where the packages
# of this one are. Forking from the host instead would copy every secret in its memory into every worker.
_BOOTSTRAP = """\
import json, sys
arguments = json.loads(sys.argv[1])
sys.path[:] = arguments.pop("path")
from isoplug.worker.zygote import main
main(**arguments)
"""


class Zygote:
    """Thread-safe. ``fork`` starts the process on first use and again after it died."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._lock = threading.Lock()
        self._current: _Running | None = None
        self._is_closed = False
        # The write end stays here and nowhere else: its closing, by whatever ends this process, kills every worker.
        self._lifeline_read, self._lifeline_write = os.pipe()

    def fork(self, socket_path: Path, limits: WorkerLimits, deadline: Deadline) -> WorkerProcess:
        """A new worker process. Raises Silence at the deadline, SetupError when the machine cannot start one, and
        SupervisorClosed."""
        try:
            return self._running().fork(socket_path, limits, deadline)
        except _ZygoteDied:  # it may have died long ago, unnoticed: only a second death is news
            return self._running().fork(socket_path, limits, deadline)

    def close(self) -> None:
        """End the zygote and every worker that is left. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            current, self._current = self._current, None
        if current is not None:
            current.close()
        self.let_go()
        os.close(self._lifeline_read)

    def let_go(self) -> None:
        """Close the write end of the lifeline: in ``close``, or in a fork of the host, which must not keep workers of
        its parent alive."""
        os.close(self._lifeline_write)

    def _running(self) -> _Running:
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed
            if self._current is None or not self._current.is_alive:
                self._current = _Running(self._runtime_dir, self._lifeline_read)
                _log.info("zygote.started", pid=self._current.pid)
            return self._current


class _ZygoteDied(SetupError):
    """Nothing was forked; a new zygote may do it."""

    def __init__(self, last_words: str) -> None:
        super().__init__(
            f"the process that workers are forked from has died: {last_words or 'no message'}; try again, and look at "
            "the machine's free memory and its process limits"
        )


class _Running:
    """One zygote process and the thread that reads what it says."""

    def __init__(self, runtime_dir: Path, lifeline_fd: int) -> None:
        with ExitStack() as ours, ExitStack() as lent:  # ``lent`` is closed here, the child has it by then
            try:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.callback(control.close)
                lent.callback(theirs.close)
                supervisor_pidfd = os.pidfd_open(os.getpid())
                lent.callback(os.close, supervisor_pidfd)
                self._process = _spawn(runtime_dir, theirs.fileno(), supervisor_pidfd, lifeline_fd)
            except OSError as error:
                raise SetupError(
                    f"cannot start the process that workers are forked from: {error}; free processes or descriptors"
                ) from error
            ours.pop_all()
        self._control = control
        self._is_dead = False
        self._requests = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[int, Future[WorkerProcess]] = {}
        self._workers: dict[int, WorkerProcess] = {}
        self._reader = threading.Thread(target=self._read, name="isoplug-zygote", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._reader.is_alive() and not self._is_dead

    def fork(self, socket_path: Path, limits: WorkerLimits, deadline: Deadline) -> WorkerProcess:
        request = next(self._requests)
        forked: Future[WorkerProcess] = Future()
        try:
            with self._lock:  # also keeps the reader from closing the socket under this send
                self._pending[request] = forked
                # Without waiting: a zygote that does not read is stopped, and must not stop its supervisor as well.
                self._control.send(msgpack.packb([request, str(socket_path), *limits]), socket.MSG_DONTWAIT)
            return forked.result(deadline.remaining_seconds())
        except (FutureTimeout, BlockingIOError):  # both are OSErrors, and neither means that it died
            self._give_up(request, forked)
            raise Silence from None
        except OSError as error:
            self._give_up(request, forked)
            if error.errno not in _DEAD_PEER:
                raise SetupError(f"cannot ask for a worker: {error}; free memory or descriptors") from error
            self._is_dead = True  # the reader may need a moment more to see it
            raise _ZygoteDied(str(error)) from error
        except BaseException:  # the caller's thread was interrupted
            self._give_up(request, forked)
            raise

    def _give_up(self, request: int, forked: Future[WorkerProcess]) -> None:
        with self._lock:
            if self._pending.pop(request, None) is not None:
                return  # the reader will find nobody who waits, and end the process
        forked.add_done_callback(_end_unwanted)  # it is being handed over right now

    def close(self) -> None:
        with self._lock, suppress(OSError):  # it may have died, and the reader closed the socket
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        """Until the zygote is gone. Packets come in the order in which things happened."""
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                packet, fds = b"", []
            if not packet:
                break
            what, *facts = msgpack.unpackb(packet)
            if what == "forked" and not fds:  # the kernel drops a descriptor that this process has no room for
                with suppress(ProcessLookupError):
                    os.kill(facts[1], signal.SIGKILL)  # not reaped before it has ended, so its pid is still its own
                self._settle(
                    facts[0], SetupError("no descriptor is free for a worker; close some, or raise `ulimit -n`")
                )
            elif what == "forked":
                self._forked(facts[0], WorkerProcess(facts[1], fds[0]))
            elif what == "refused":
                self._settle(facts[0], SetupError(f"cannot fork a worker: {facts[1]}; free processes or descriptors"))
            else:
                self._exited(facts[0], facts[1])
        self._bury()

    def _forked(self, request: int, process: WorkerProcess) -> None:
        with self._lock:
            forked = self._pending.pop(request, None)
            if forked is not None:
                self._workers[process.pid] = process
        if forked is not None:
            forked.set_result(process)
        else:  # whoever asked has given up
            process.kill()
            process.close()

    def _settle(self, request: int, error: Exception) -> None:
        with self._lock:
            forked = self._pending.pop(request, None)
        if forked is not None:
            forked.set_exception(error)

    def _exited(self, pid: int, wait_status: int) -> None:
        with self._lock:
            process = self._workers.pop(pid, None)
        if process is not None:
            process.report_exit(ExitStatus.from_wait_status(wait_status))

    def _bury(self) -> None:
        """The control socket has closed: fail whoever waits. Workers go on; their pidfds still tell of their end."""
        with self._lock:
            self._is_dead = True
            self._control.close()
            waiting = list(self._pending)
            orphans = list(self._workers.values())
        for process in orphans:
            process.orphaned.set_result(None)
        stderr: IO[bytes] | None = self._process.stderr
        last_words = stderr.read(_STDERR_BYTES).decode("utf-8", "replace").strip() if stderr is not None else ""
        if stderr is not None:
            stderr.close()
        for request in waiting:
            self._settle(request, _ZygoteDied(last_words))
        self._process.wait()


def _spawn(runtime_dir: Path, control_fd: int, supervisor_pidfd: int, lifeline_fd: int) -> subprocess.Popen[bytes]:
    arguments = {
        "path": [entry for entry in sys.path if os.path.isabs(entry)],
        "control_fd": control_fd,
        "supervisor_pidfd": supervisor_pidfd,
        "lifeline_fd": lifeline_fd,
        "runtime_dir": str(runtime_dir),
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOTSTRAP, json.dumps(arguments)],
        env={"EXTISM_CACHE_CONFIG": ""},  # no compilation cache: whoever can write there owns the next worker
        cwd="/",
        pass_fds=(control_fd, supervisor_pidfd, lifeline_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _end_unwanted(forked: Future[WorkerProcess]) -> None:
    if forked.exception() is None:
        forked.result().kill()
        forked.result().close()
