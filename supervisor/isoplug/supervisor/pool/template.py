"""The process that has compiled one module and forks its workers: started when the first worker is, and again after it
died."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoplug.shared.errors import LoadError, SetupError, SupervisorClosed
from isoplug.shared.forking import TemplateOrder
from isoplug.shared.limits import clip
from isoplug.shared.lockdown import Layer, Lockdown, Protection
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.pending import Pending
from isoplug.supervisor.pool.budget import Allowance, worker_limits
from isoplug.supervisor.pool.fork_server import ForkServer, ForkServerDied
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.link import Link, Silence, open_pair
from isoplug.supervisor.pool.worker import Worker, WorkerProcess
from isoplug.supervisor.pool.zygote import Zygote

__all__ = ["Nursery", "Template", "TemplateDied"]

#: How long a template may take to end; it has nothing to do but to reap.
_FAREWELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Nursery:
    """What templates are made with; one a supervisor. ``empty_folder`` is what they are locked into, ``functions`` and
    ``notices`` are the import table of every guest."""

    zygote: Zygote
    hub: Hub
    lifeline: Lifeline
    empty_folder: Path
    functions: Collection[str]
    notices: Collection[str]
    lockdown: Lockdown
    on_locked: Callable[[Protection], None]


class Template:
    """Thread-safe. ``read`` gives the module's bytes, ``name`` is only for messages."""

    def __init__(self, nursery: Nursery, name: str, read: Callable[[], bytes], limits: Limits) -> None:
        self._nursery = nursery
        self.name = name
        self.limits = limits
        self._worker_limits = worker_limits(limits)
        self.read = read
        self._lock = threading.Lock()
        self._current: _Running | None = None
        self._is_closed = False

    def worker(self, deadline: Deadline) -> Worker:
        """A new worker, which is about to say hello.

        Raises LoadError (the module is at fault), TemplateDied, SetupError, SupervisorClosed, Silence, and
        ForkServerDied when another attempt may help.
        """
        server = self._compiled(deadline)
        ours, theirs = open_pair()
        process = None
        try:
            with theirs:  # it has it by then
                process = server.fork((), deadline, self._worker_limits, (theirs.fileno(),))
            return Worker(process, Link(ours, process.pidfd, self.limits.frame), Allowance.of(self.limits), self)
        except BaseException:
            ours.close()
            if process is not None:  # an interrupt
                process.kill()
                process.close()
            raise

    def retire(self) -> Callable[[], None]:
        """The next worker is forked from another process. What is returned ends the one that there is now, with the
        workers that it has left, and waits for that. Not while one of them is being started."""
        with self._lock:
            current, self._current = self._current, None
        return (lambda: None) if current is None else current.close

    def close(self) -> None:
        """End the process; workers that are left are ended with it. Idempotent."""
        with self._lock:
            self._is_closed = True
            current, self._current = self._current, None
        if current is not None:
            current.close()

    def _compiled(self, deadline: Deadline) -> ForkServer:
        current, is_new = self._entered()
        try:
            if is_new:
                self._start(current, deadline)
            current.compiled.result(deadline.remaining_seconds())
            return current.server
        except TimeoutError:
            raise Silence from None
        except TemplateDied:
            if self._is_closed:
                raise SupervisorClosed(self.name) from None
            raise
        finally:
            self._leave(current)

    def _entered(self) -> tuple[_Running, bool]:
        """The process to wait for, and whether it has to be started by whoever asks. ``_leave`` it in any case."""
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(self.name)
            current = self._current
            if current is not None and current.is_of_use:
                current.waiting += 1
                return current, False
            outdated, current = current, _Running(self._nursery, self.name)
            self._current = current
            current.waiting += 1
        if outdated is not None:
            outdated.close()
        return current, True

    def _leave(self, current: _Running) -> None:
        """Whoever leaves last ends a process that has not compiled: a module may take for ever."""
        with self._lock:
            current.waiting -= 1
            is_deserted = not current.waiting and not current.has_compiled
            if is_deserted and self._current is current:
                self._current = None
        if is_deserted:
            current.close()

    def _start(self, current: _Running, deadline: Deadline) -> None:
        """When this raises, whoever else waits for ``current`` has to try again."""
        try:
            with ExitStack() as ours, ExitStack() as lent:
                try:
                    self._make_folder()
                    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    ours.callback(control.close)
                    lent.callback(theirs.close)
                    module_fd = _sealed(self.read())
                    lent.callback(os.close, module_fd)
                except OSError as error:
                    raise SetupError(
                        f"cannot start the process that compiles plugin {self.name!r}: {error}; free "
                        "descriptors, memory or disk"
                    ) from error
                process = self._nursery.zygote.fork(self._order(), deadline, theirs, module_fd)
                ours.pop_all()
                current.begin(process, control)
        except BaseException as error:
            current.give_up(error)
            raise

    def _make_folder(self) -> None:
        """Each time: whatever tidies up the machine's folders may have removed an empty one."""
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(self.name)
            self._nursery.empty_folder.mkdir(mode=0o700, exist_ok=True)

    def _order(self) -> TemplateOrder:
        nursery = self._nursery
        functions, notices = "\n".join(nursery.functions), "\n".join(nursery.notices)
        return TemplateOrder(str(nursery.empty_folder), functions, notices, nursery.lockdown, self._worker_limits)


class TemplateDied(Exception):
    """It died before it had compiled the module; ``process`` knows how."""

    def __init__(self, process: WorkerProcess) -> None:
        super().__init__("the process that compiles it has died")
        self.process = process


class _Running:
    """One process of a template, from the moment that it is wanted.

    ``compiled`` fails with LoadError, SetupError, TemplateDied or ForkServerDied; ``server`` is there when it does not.
    ``waiting`` is how many wait for it, guarded by the template's lock.
    """

    server: ForkServer

    def __init__(self, nursery: Nursery, name: str) -> None:
        self.compiled: Pending[None] = Pending()
        self.waiting = 0
        self._nursery = nursery
        self._name = name
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._is_closed = False
        self._protection: Protection | None = None

    @property
    def has_compiled(self) -> bool:
        return self.compiled.done() and self.compiled.exception() is None

    @property
    def is_of_use(self) -> bool:
        """It compiles, or has compiled and forks workers."""
        return self.server.is_alive if self.has_compiled else not self.compiled.done()

    def begin(self, process: WorkerProcess, control: socket.socket) -> None:
        """Both are its own from here on. Raises SetupError, and SupervisorClosed."""
        try:
            with self._lock:  # before the hub's thread hears anything
                if self._is_closed:
                    control.close()
                    raise SupervisorClosed(self._name)
                hub, lifeline = self._nursery.hub, self._nursery.lifeline
                died = TemplateDied(process)
                self.server = ForkServer(
                    control, process, hub, lifeline, on_word=self._hear, on_end=lambda: self._fail(died)
                )
                self._process = process
        except BaseException as error:
            process.kill()
            process.close()
            if isinstance(error, OSError):
                raise SetupError(f"cannot listen to a new process: {error}; free descriptors or threads") from error
            raise

    def give_up(self, error: BaseException) -> None:
        """Whoever asked for it could not start it."""
        self._fail(ForkServerDied(str(error) or type(error).__name__))

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._is_closed = True
            process = self._process
        if process is not None:
            self.server.end(_FAREWELL_SECONDS)
            process.exit_status()
            process.close()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            if not self.compiled.done():
                self.compiled.set_exception(error)

    # --- in the hub's thread --------------------------------------------------------------------------------------

    def _hear(self, word: str, facts: list[Any]) -> None:
        """Raises ValueError for what no honest template says."""
        with self._lock:
            if self.compiled.done():
                raise ValueError("it had said everything")
            match word, facts:
                case "locked", [list(applied), dict(missing)] if self._protection is None:
                    self._note(
                        Protection(
                            tuple(map(Layer, applied)), {Layer(layer): clip(str(why)) for layer, why in missing.items()}
                        )
                    )
                case "compiled", [] if self._protection is not None:
                    self.compiled.set_result(None)
                case "failed", [str(reason)] if self._protection is not None:
                    self.compiled.set_exception(_load_error(self._name, clip(reason)))
                case _:
                    raise ValueError("no known word")

    def _note(self, protection: Protection) -> None:
        self._protection = protection
        self._nursery.on_locked(protection)
        if protection.missing and self._nursery.lockdown is Lockdown.FULL:
            self.compiled.set_exception(_not_full(protection))


def _load_error(name: str, reason: str) -> LoadError:
    return LoadError(f"plugin {name!r} cannot be loaded: {reason}{_advice(reason)}", plugin_id=name)


def _not_full(protection: Protection) -> SetupError:
    return SetupError(
        f'lockdown = "full", and this machine cannot give a worker all of it ({protection.gaps}); run '
        '`isoplug doctor`, or set lockdown = "best-effort"'
    )


def _advice(reason: str) -> str:
    if "Cannot allocate memory" in reason:
        return "; it takes more to compile than limits.process_memory allows: raise that, or split the plugin"
    if "unknown import" not in reason:
        return ""
    return "; the plugin was built for another or a newer host: update isoplug, or install another build of the plugin"


def _sealed(module: bytes) -> int:
    """A file in memory that nobody can change. Raises OSError."""
    fd = os.memfd_create("isoplug-module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(module)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
