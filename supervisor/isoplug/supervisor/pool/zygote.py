"""The zygote, started when it is first needed and again after it died; templates are forked from it."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import SupervisorClosed
from isoplug.shared.forking import TemplateOrder
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.fork_server import ForkServer
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.worker import WorkerProcess
from isoplug.supervisor.zygote_process import ZygoteProcess, cannot_start

__all__ = ["Zygote"]

_log = get_logger(__name__)

#: How long it may take to end its children and itself once its conversation is closed.
_FAREWELL_SECONDS = 2.0
#: How long its interpreter's start and its imports may take; a tenth of a second is usual.
_BOOT_SECONDS = 15.0


class Zygote:
    """Thread-safe. ``booting`` is the first one, when it has been started already."""

    def __init__(self, runtime_dir: Path, hub: Hub, lifeline: Lifeline, booting: ZygoteProcess | None) -> None:
        self._runtime_dir = runtime_dir
        self._hub = hub
        self._lifeline = lifeline
        self._lock = threading.Lock()
        self._booting = booting
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
            booting, self._booting = self._booting, None
            current, self._current = self._current, None
        if booting is not None:
            booting.end()
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
        with ExitStack() as undoing:
            try:
                process = self._booting or ZygoteProcess(self._runtime_dir, self._lifeline)
                undoing.callback(process.end)
                self._booting = None
                server = ForkServer(process.control, process, self._hub, self._lifeline, boot_seconds=_BOOT_SECONDS)
            except OSError as error:
                raise cannot_start(error) from error
            undoing.pop_all()
        return server
