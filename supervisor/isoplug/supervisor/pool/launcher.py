"""From a template to a worker that has made its instance: fork, hello, load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from isoplug.shared.errors import CallTimeout, CrashReason, LoadError, SupervisorClosed, WorkerCrashed
from isoplug.shared.lockdown import Lockdown, Protection
from isoplug.shared.messages import PROTOCOL, Hello, Load, Loaded, LoadFailed
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.head_start import HeadStart
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.fork_server import ForkServerDied
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.pool.template import Nursery, Template, TemplateDied
from isoplug.supervisor.pool.worker import Worker
from isoplug.supervisor.pool.zygote import Zygote

__all__ = ["Launcher"]

_log = get_logger(__name__)

#: How many may die or fall silent during one start: the first may have died long ago, unnoticed.
_ATTEMPTS = 3

#: How long closing waits for the ends of processes to be reported.
_FAREWELL_SECONDS = 2.0


class Launcher:
    """Thread-safe; one a supervisor. ``functions`` and ``notices`` are the import table of every guest.
    ``head_start`` has the first zygote, if there is one; otherwise it is started when it is needed."""

    def __init__(
        self,
        runtime_dir: Path,
        lockdown: Lockdown,
        functions: Sequence[str],
        notices: Sequence[str],
        head_start: HeadStart | None = None,
    ) -> None:
        self._lockdown = lockdown
        self._hub = Hub()
        self._lifeline, booting = (Lifeline(), None) if head_start is None else head_start.take()
        self._zygote = Zygote(runtime_dir, self._hub, self._lifeline, booting)
        self._nursery = Nursery(
            self._zygote,
            self._hub,
            self._lifeline,
            runtime_dir / "empty",
            functions,
            notices,
            lockdown,
            self._note_protection,
        )
        self._lock = threading.Lock()
        self._is_closed = False
        #: What the newest template got; None before the first.
        self.protection: Protection | None = None

    def template(self, name: str, read: Callable[[], bytes], limits: Limits) -> Template:
        """What workers of the module that ``read`` gives are made of; nothing is started yet. Whoever asked closes it.
        ``name`` is only for messages."""
        return Template(self._nursery, name, read, limits)

    def launch(self, template: Template, deadline: Deadline) -> Worker:
        """A worker that has made its instance.

        Raises LoadError (the module is at fault), WorkerCrashed, CallTimeout, SetupError (the machine is at fault),
        SupervisorClosed.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._launch(template, deadline)
            except ForkServerDied:  # not suppress(), in which an interrupt would lose the worker
                pass
        return self._launch(template, deadline)

    def close(self) -> None:
        """End every process that is left; whoever talks to one notices and closes its socket. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._zygote.close()
        self._lifeline.cut()
        self._hub.join(_FAREWELL_SECONDS)
        self._hub.close()
        self._lifeline.close()

    def let_go(self) -> None:
        """In a fork of the host, which must not keep workers of its parent alive."""
        self._lifeline.cut()

    def _launch(self, template: Template, deadline: Deadline) -> Worker:
        """Also raises ForkServerDied."""
        if self._is_closed:
            raise SupervisorClosed(template.name)
        try:
            worker = template.worker(deadline)
        except TemplateDied as died:
            if self._is_closed:
                raise SupervisorClosed(template.name) from None
            raise died.process.exit_status().crash(template.name, "while it was compiled") from None
        except Silence as error:
            raise _failure(template.name, error, deadline) from None
        try:
            _greet(worker, template.name, deadline)
        except BaseException as error:
            status = worker.end()
            if isinstance(error, Gone):
                raise status.crash(template.name, "while it started") from None
            if isinstance(error, (Silence, Breach)):
                raise _failure(template.name, error, deadline) from None
            raise
        return worker

    def _note_protection(self, protection: Protection) -> None:
        """In the hub's thread. Said once, and again when it has changed."""
        known, self.protection = self.protection, protection
        if known is not None and known.missing == protection.missing:
            return
        if self._lockdown is Lockdown.OFF:
            _log.info("lockdown.off", advice='workers keep every right of this user; set lockdown = "best-effort"')
        elif self._lockdown is Lockdown.BEST_EFFORT and protection.missing:  # "full" is an error, which says it
            missing = {str(layer): reason for layer, reason in protection.missing.items()}
            _log.warning("lockdown.incomplete", **missing, advice="run `isoplug doctor`")


def _greet(worker: Worker, name: str, deadline: Deadline) -> None:
    """Raises Silence, Gone, Breach, LoadError."""
    if worker.link.receive(deadline) != Hello(PROTOCOL):
        raise Breach("it did not say hello")
    worker.link.send(Load(), deadline)
    match worker.link.receive(deadline):
        case Loaded():
            return
        case LoadFailed(reason):
            raise LoadError(f"plugin {name!r} cannot be loaded: {reason}", plugin_id=name)
        case _:
            raise Breach("it did not answer whether it loaded")


def _failure(name: str, error: Silence | Breach, deadline: Deadline) -> CallTimeout | WorkerCrashed:
    if isinstance(error, Silence):
        return CallTimeout(name, "its start", deadline.timeout_seconds)
    return WorkerCrashed(name, f"destroyed, {error}", reason=CrashReason.PROTOCOL_BREACH)
