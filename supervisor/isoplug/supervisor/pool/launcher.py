"""From a module's bytes to a worker that has loaded it: bind, fork, hello, load."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import CallTimeout, LoadError, SetupError, SupervisorClosed, WorkerCrashed
from isoplug.shared.limits import WorkerLimits
from isoplug.shared.messages import PROTOCOL, Hello, Load, Loaded, LoadFailed
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.link import Breach, Gone, Link, Silence, open_context
from isoplug.supervisor.pool.worker import Worker, WorkerProcess
from isoplug.supervisor.pool.zygote import Zygote

__all__ = ["Launcher"]

_log = get_logger(__name__)

#: What starting a worker may need at once: libzmq's context, listener, connection and signals, the pidfd, the zygote.
_SPARE_DESCRIPTORS = 20

#: How long closing waits for threads that are in the middle of a call although its worker is dead.
_FAREWELL_SECONDS = 2.0


class Launcher:
    """Thread-safe; one a supervisor. ``functions`` and ``notices`` are the import table of every guest."""

    def __init__(
        self, runtime_dir: Path, limits: WorkerLimits, functions: Sequence[str], notices: Sequence[str]
    ) -> None:
        self._runtime_dir = runtime_dir
        self._limits = limits
        self._functions = "\n".join(functions)
        self._notices = "\n".join(notices)
        _require_descriptors()
        self._context = open_context()
        self._zygote = Zygote(runtime_dir)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # makes sockets one at a time, and none in a context that is being ended
        self._is_closed = False

    def launch(self, wasm: bytes, plugin: str, deadline: Deadline) -> Worker:
        """A worker that has compiled and instantiated ``wasm``; ``plugin`` is only for messages.

        Raises LoadError (the module is at fault), WorkerCrashed, CallTimeout, SetupError (the machine is at fault).
        """
        socket_path = self._runtime_dir / f"w{next(self._numbers)}"
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(plugin)
            _require_descriptors()
            link = Link(self._context, str(socket_path), self._limits.frame_bytes)
        process: WorkerProcess | None = None
        try:
            process = self._zygote.fork(socket_path, self._limits, deadline)
            link.watch(process.pidfd)
            worker = Worker(process, link)
            self._greet(worker, wasm, plugin, socket_path, deadline)
        except BaseException as error:
            if process is not None:
                status = Worker(process, link).end()
            else:
                link.close()
            socket_path.unlink(missing_ok=True)
            match error:
                case Silence():
                    raise CallTimeout(plugin, "its start", deadline.timeout_seconds) from None
                case Gone():
                    raise WorkerCrashed(
                        plugin, f"{status} while it started", signal=status.signal, exit_code=status.exit_code
                    ) from None
                case Breach():
                    raise WorkerCrashed(plugin, f"destroyed, {error}") from None
            raise
        return worker

    def _greet(self, worker: Worker, wasm: bytes, plugin: str, socket_path: Path, deadline: Deadline) -> None:
        hello = worker.link.receive(deadline)
        if hello != Hello(PROTOCOL):
            raise Breach("it did not say hello")
        socket_path.unlink(missing_ok=True)  # its only peer is connected: nobody else can be
        worker.link.send(Load(wasm, self._functions, self._notices))
        match worker.link.receive(deadline):
            case Loaded():
                return
            case LoadFailed(reason):
                raise LoadError(f"plugin {plugin!r} cannot be loaded: {reason}{_advice(reason)}", plugin_id=plugin)
            case _:
                raise Breach("it did not answer whether it loaded")

    def close(self) -> None:
        """End every process that is left; whoever talks to one notices and closes its socket."""
        with self._lock:
            self._is_closed = True
        self._zygote.close()
        # Waits for the sockets, so for threads that may be in a host's own service: those must not hold up the host.
        ending = threading.Thread(target=self._context.term, name="isoplug-zmq-term", daemon=True)
        ending.start()
        ending.join(_FAREWELL_SECONDS)
        if ending.is_alive():
            _log.error("supervisor.call_outlives_it", advice="a host service does not return; its thread is left alone")

    def let_go(self) -> None:
        """In a fork of the host: see ``Zygote.let_go``."""
        self._zygote.let_go()


def _require_descriptors() -> None:
    """Raises SetupError while too few are free: libzmq would not fail without one, it would abort this process."""
    with ExitStack() as held:
        try:
            for _ in range(_SPARE_DESCRIPTORS):
                held.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise SetupError(
                f"too few descriptors are free to start a worker ({error.strerror}); close some, or raise `ulimit -n`"
            ) from error


def _advice(reason: str) -> str:
    if "unknown import" not in reason:
        return ""
    return "; the plugin was built for another or a newer host: update isoplug, or install another build of the plugin"
