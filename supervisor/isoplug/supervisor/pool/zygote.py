"""Client of the zygote: asks for forks, resolves exits, replaces a zygote that died."""

from __future__ import annotations

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
from pathlib import Path
from typing import IO

import msgpack

from isoplug.shared.errors import SetupError
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
_FAREWELL_SECONDS = 5.0

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
        # The write end stays here and nowhere else: its closing, by whatever ends this process, kills every worker.
        self._lifeline_read, self._lifeline_write = os.pipe()

    def fork(self, socket_path: Path, limits: WorkerLimits, deadline: Deadline) -> WorkerProcess:
        """A new worker process. Raises Silence at the deadline, SetupError when the machine cannot start one."""
        with self._lock:
            if self._current is None or not self._current.is_alive:
                self._current = _Running(self._runtime_dir, self._lifeline_read)
                _log.info("zygote.started", pid=self._current.pid)
            current = self._current
        return current.fork(socket_path, limits, deadline)

    def close(self) -> None:
        """End the zygote and through it every worker that is left, then remove the runtime directory."""
        with self._lock:
            if self._current is not None:
                self._current.close()
                self._current = None
        os.close(self._lifeline_write)
        os.close(self._lifeline_read)


class _Running:
    """One zygote process and the thread that reads what it says."""

    def __init__(self, runtime_dir: Path, lifeline_fd: int) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor_pidfd = os.pidfd_open(os.getpid())
        arguments = {
            "path": [entry for entry in sys.path if os.path.isabs(entry)],
            "control_fd": theirs.fileno(),
            "supervisor_pidfd": supervisor_pidfd,
            "lifeline_fd": lifeline_fd,
            "runtime_dir": str(runtime_dir),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOTSTRAP, json.dumps(arguments)],
                env={"EXTISM_CACHE_CONFIG": ""},  # no compilation cache: whoever can write there owns the next worker
                cwd="/",
                pass_fds=(theirs.fileno(), supervisor_pidfd, lifeline_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            raise SetupError(f"cannot start the process that workers are forked from: {error}") from error
        finally:
            theirs.close()
            os.close(supervisor_pidfd)
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
        return self._reader.is_alive()

    def fork(self, socket_path: Path, limits: WorkerLimits, deadline: Deadline) -> WorkerProcess:
        request = next(self._requests)
        forked: Future[WorkerProcess] = Future()
        with self._lock:
            self._pending[request] = forked
        try:
            self._control.send(msgpack.packb([request, str(socket_path), *limits]))
            return forked.result(deadline.remaining_seconds())
        except FutureTimeout:
            raise Silence from None
        except OSError as error:
            raise SetupError(f"the process that workers are forked from has died: {error}; try again") from error
        finally:
            with self._lock:
                self._pending.pop(request, None)

    def close(self) -> None:
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
            if what == "forked":
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
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
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
            process.exited.set_result(ExitStatus.from_wait_status(wait_status))

    def _bury(self) -> None:
        """The control socket has closed: fail whoever waits. Workers go on; their pidfds still tell of their end."""
        stderr: IO[bytes] | None = self._process.stderr
        last_words = stderr.read(_STDERR_BYTES).decode("utf-8", "replace").strip() if stderr is not None else ""
        self._control.close()
        if stderr is not None:
            stderr.close()
        with self._lock:
            waiting, self._pending = list(self._pending), self._pending
        for request in waiting:
            self._settle(
                request, SetupError(f"the process that workers are forked from has died: {last_words or 'no message'}")
            )
