"""The zygote, started when it is first needed and again after it died; templates are forked from it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import SetupError, SupervisorClosed
from isoplug.shared.forking import TemplateOrder
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.interpreter import fresh_interpreter
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.fork_server import ForkServer
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.worker import WorkerProcess

__all__ = ["Zygote"]

_log = get_logger(__name__)

_STDERR_BYTES = 4_096
#: How long it may take to end its children and itself once its conversation is closed.
_FAREWELL_SECONDS = 2.0
#: How long its interpreter's start and its imports may take; a tenth of a second is usual.
_BOOT_SECONDS = 15.0


class Zygote:
    """Thread-safe."""

    def __init__(self, runtime_dir: Path, hub: Hub, lifeline: Lifeline) -> None:
        self._runtime_dir = runtime_dir
        self._hub = hub
        self._lifeline = lifeline
        self._lock = threading.Lock()
        self._current: ForkServer | None = None
        self._is_closed = False

    def fork(self, order: TemplateOrder, deadline: Deadline, control: socket.socket, module_fd: int) -> WorkerProcess:
        """A new template. Raises what ``ForkServer.fork`` does, and SupervisorClosed."""
        limits = order.limits._replace(cpu_seconds=0)  # that is of each worker
        return self._running().fork(order, deadline, limits, (control.fileno(), module_fd))

    def close(self) -> None:
        """End it, and with it every template that is left. Idempotent."""
        with self._lock:
            self._is_closed = True
            current, self._current = self._current, None
        if current is not None:
            current.end(_FAREWELL_SECONDS)

    def _running(self) -> ForkServer:
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed
            if self._current is None or not self._current.is_alive:
                self._current = self._start()
                _log.info("zygote.started", pid=self._current.pid)
            return self._current

    def _start(self) -> ForkServer:
        with ExitStack() as ours, ExitStack() as lent:  # ``lent`` is closed here, the child has it by then
            try:
                control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.callback(control.close)
                lent.callback(theirs.close)
                supervisor_pidfd = os.pidfd_open(os.getpid())
                lent.callback(os.close, supervisor_pidfd)
                process = _Process(self._runtime_dir, theirs.fileno(), supervisor_pidfd, self._lifeline.read_fd)
                ours.callback(process.end)
                server = ForkServer(control, process, self._hub, self._lifeline, boot_seconds=_BOOT_SECONDS)
            except OSError as error:
                raise SetupError(
                    f"cannot start the process that workers are forked from: {error}; free processes or descriptors"
                ) from error
            ours.pop_all()
        return server


class _Process:
    """A fresh interpreter."""

    def __init__(self, runtime_dir: Path, control_fd: int, supervisor_pidfd: int, lifeline_fd: int) -> None:
        arguments = {
            "control_fd": control_fd,
            "supervisor_pidfd": supervisor_pidfd,
            "lifeline_fd": lifeline_fd,
            "runtime_dir": str(runtime_dir),
        }
        self._process = subprocess.Popen(
            fresh_interpreter("isoplug.worker.zygote", arguments),
            env={"EXTISM_CACHE_CONFIG": ""},  # no compilation cache: whoever can write there owns the next worker
            cwd="/",
            pass_fds=(control_fd, supervisor_pidfd, lifeline_fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, patience_seconds: float) -> bool:
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        self._process.wait()
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            os.set_blocking(stderr.fileno(), False)  # a child that was being forked may still have the write end
            return (stderr.read(_STDERR_BYTES) or b"").decode("utf-8", "replace").strip()

    def end(self) -> None:
        self.kill()
        self.last_words()
