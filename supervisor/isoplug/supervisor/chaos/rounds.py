"""One round: fresh copies of everything, a fresh host, and the steps of the round, with faults or without.

What is seen of it is a ``Lived``, a value that ``reference`` compares with another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from isoplug.shared.errors import PluginError, SetupError
from isoplug.shared.record import Outcome
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.chaos.hosts import Host, HostFactory
from isoplug.supervisor.chaos.injector import Injector
from isoplug.supervisor.chaos.load import Operation, Stage
from isoplug.supervisor.chaos.notes import DeliveryNote, EffectCount, Notes, StepNotes
from isoplug.supervisor.chaos.place import Step, stepping
from isoplug.supervisor.chaos.report import Restart
from isoplug.supervisor.chaos.taint import Resource
from isoplug.supervisor.files import reason
from isoplug.supervisor.private_folder import PrivateFolder
from isoplug.supervisor.storage import SqliteStorage
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["ALLOWANCE_SECONDS", "Arena", "Done", "Lived", "Order"]

#: How much later than its deadline a call may end on a machine that has other things to do.
ALLOWANCE_SECONDS: Final = 5.0
_STATUS_EVERY_SECONDS: Final = 0.05
#: The kernel may take a moment to reap what was killed.
_TIDYING_SECONDS: Final = 10.0
_KEY_KINDS: Final = frozenset({"key_set", "key_deleted"})


@dataclass(frozen=True, slots=True)
class Done:
    """One step that was made. ``answer`` is its answer as text, None when it ended with ``error``. ``stray`` is what it
    ended with that is no PluginError. ``plugins`` took part in it and ``touched`` these things; of ``lost_workers`` a
    worker was lost, with ``has_lost_nested`` in a command that another plugin had run. ``handled`` has, by plugin, how
    the last delivery ended that no other plugin made. ``outcome_is_true``: error and record say what was seen."""

    step: Step
    operation: Operation
    stage: int
    answer: str | None
    error: type[PluginError] | None
    outcome: Outcome
    outcome_is_true: bool
    stray: str
    effects: EffectCount
    plugins: frozenset[str]
    touched: frozenset[Resource]
    lost_workers: frozenset[str]
    has_lost_nested: bool
    handled: dict[str, type[PluginError] | None]
    attempts: int
    began_seconds: float
    took_seconds: float


@dataclass(slots=True)
class Lived:
    """A round as it was. ``files`` and ``keys`` are what was there at its end: path → digest of what had been changed,
    (plugin, key) → value; ``lost`` are keys of which guests were told otherwise. ``untidy`` says what was left behind,
    ``status_seconds`` how long the slowest status took."""

    done: dict[Step, Done] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    restarts: list[Restart] = field(default_factory=list)
    load_errors: dict[str, PluginError] = field(default_factory=dict)
    lost: list[tuple[str, str]] = field(default_factory=list)
    untidy: str = ""
    status_seconds: float = 0.0
    status_error: str = ""


class Order(StrEnum):
    """In which order the callers of a stage make their steps: all ``AT_ONCE``, or one caller after the other."""

    AT_ONCE = "at once"
    FORWARD = "forward"
    BACKWARD = "backward"


class Arena:
    """The folders of a run: its rounds copy plugins and workspace to the same places each time, so that nothing that
    depends on a path differs. A context manager; leaving it removes them. Raises SetupError."""

    def __init__(self, plugins: Path | str, workspace: Path | str | None) -> None:
        self._plugins = Path(plugins).resolve()
        self._workspace = None if workspace is None else Path(workspace).resolve()
        for name, folder in (("plugins", self._plugins), ("workspace", self._workspace)):
            if folder is not None and not folder.is_dir():
                raise SetupError(f"{name}: {folder} is not a folder; make it, or name another")
        self._folder = PrivateFolder.make("isoplug-chaos-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.close()

    def fresh(self) -> tuple[Path, Path | None, Path]:
        """Plugins, workspace and state, as at the beginning of each round. Raises SetupError."""
        plugins, workspace, state = (self._folder.path / name for name in ("plugins", "workspace", "state"))
        try:
            for folder in (plugins, workspace, state):
                if folder.exists():
                    shutil.rmtree(folder)
            state.mkdir(mode=0o700)
            if self._workspace is not None:
                shutil.copytree(self._workspace, workspace, symlinks=True)
                if self._plugins.is_relative_to(self._workspace):
                    return workspace / self._plugins.relative_to(self._workspace), workspace, state
            shutil.copytree(self._plugins, plugins, symlinks=True)
        except (OSError, shutil.Error) as error:
            problem = reason(error) if isinstance(error, OSError) and error.strerror else str(error)
            raise SetupError(
                f"cannot copy plugins and workspace to {self._folder.path}: {problem}; make room there, or set TMPDIR"
            ) from error
        return plugins, None if self._workspace is None else workspace, state

    def live(
        self,
        make_host: HostFactory,
        stages: Sequence[Stage],
        timeout: float,
        *,
        order: Order = Order.AT_ONCE,
        injector: Injector | None = None,
        interceptors: Sequence[Interceptor] = (),
        skipped: Collection[Step] = (),
        is_over: Callable[[], bool] = lambda: False,
        on_done: Callable[[Done], None] = lambda _: None,
        began: float = 0.0,
    ) -> Lived:
        """Make the steps of these stages, but for ``skipped`` ones. ``is_over`` is asked before each stage but the
        first; ``on_done`` hears of each step, in the thread of its caller. Raises SetupError."""
        plugins, workspace, state = self.fresh()
        before = _Belongings()
        notes, lived = Notes(), Lived()
        around = [notes, *interceptors, *([] if injector is None else [injector])]
        host = make_host(plugins, workspace, state, around)
        processes = psutil.Process().children(recursive=True)
        try:
            lived.load_errors = dict(host.supervisor.load_errors)
            notes.supervisor = host.supervisor
            with _Vigil(host.supervisor, lived, began):
                play = _Play(host, notes, injector, lived, timeout, began, on_done)
                for number, stage in enumerate(stages):
                    if number and (is_over() or play.is_stuck):
                        break
                    play.stage(number, stage, order, skipped)
            processes = psutil.Process().children(recursive=True)
            lived.lost = [] if play.is_stuck else notes.ledger.lost()
        finally:
            host.close()
        lived.untidy = before.left(processes)
        if workspace is not None and self._workspace is not None:
            lived.files = _changed(workspace, self._workspace)
        lived.keys = _keys(state, lived.done.values())
        return lived


class _Play:
    """Makes the steps of a round."""

    def __init__(
        self,
        host: Host,
        notes: Notes,
        injector: Injector | None,
        lived: Lived,
        timeout: float,
        began: float,
        on_done: Callable[[Done], None],
    ) -> None:
        self._host, self._notes, self._injector, self._lived = host, notes, injector, lived
        self._timeout, self._began, self._on_done = timeout, began, on_done
        self._lock = threading.Lock()
        #: A step did not end by far; nobody waits for what comes after it.
        self.is_stuck = False

    def stage(self, number: int, stage: Stage, order: Order, skipped: Collection[Step]) -> None:
        callers = [[(step, what) for step, what in steps if step not in skipped] for steps in stage.steps]
        groups = [callers] if order is Order.AT_ONCE else [[caller] for caller in callers]
        for group in reversed(groups) if order is Order.BACKWARD else groups:
            self._together(number, group)
        for step, operation in stage.events:
            if step not in skipped and not self.is_stuck:
                if self._injector is not None:
                    self._injector.begin_event(step.number)
                self._notes.event = step
                self._together(number, [[(step, operation)]])

    def _together(self, stage: int, callers: Sequence[Sequence[tuple[Step, Operation]]]) -> None:
        threads = [
            threading.Thread(target=self._make, args=(stage, steps), name=f"chaos-{steps[0][0].caller}", daemon=True)
            for steps in callers
            if steps
        ]
        give_up_at = time.monotonic() + max(map(len, callers), default=0) * (self._timeout + ALLOWANCE_SECONDS)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self.is_stuck = True

    def _make(self, stage: int, steps: Iterable[tuple[Step, Operation]]) -> None:
        for step, operation in steps:
            if self.is_stuck:
                return
            done = self._step(stage, step, operation)
            with self._lock:
                self._lived.done[step] = done
            self._on_done(done)

    def _step(self, stage: int, step: Step, operation: Operation) -> Done:
        began = time.monotonic()
        answer, error, stray, outcome = None, None, "", Outcome.NOT_DELIVERED
        try:
            with stepping(step):
                answer = _text(self._host.perform(operation, self._timeout))
        except PluginError as failure:
            error, outcome = failure, failure.outcome
        except Exception as failure:  # noqa: BLE001  a host's own: it is what the report is to say
            stray = type(failure).__name__
        took = time.monotonic() - began
        noted = self._notes.take(step)
        return Done(
            step,
            operation,
            stage,
            answer,
            None if error is None else type(error),
            outcome,
            _is_true(error, noted),
            stray,
            noted.effects,
            noted.plugins,
            noted.touched,
            noted.lost_workers,
            noted.has_lost_nested,
            _handled(noted.deliveries),
            noted.attempts,
            began - self._began,
            took,
        )


def _is_true(error: PluginError | None, noted: StepNotes) -> bool:
    """Whether all that the guests were told of is in the record, and the error, if there is one, says what that does,
    and has one when a worker was asked."""
    if not all(delivery.is_recorded for delivery in noted.deliveries):
        return False
    if error is None:
        return True
    if error.record is not None:
        return error.outcome is error.record.outcome
    return error.outcome is not Outcome.NOT_DELIVERED or not noted.deliveries


def _handled(deliveries: Sequence[DeliveryNote]) -> dict[str, type[PluginError] | None]:
    """By plugin, how its last delivery ended that no other plugin made."""
    return {note.plugin_id: note.error for note in deliveries if not note.depth}


class _Vigil:
    """Asks for the status all the time, and notes restarts."""

    def __init__(self, supervisor: Supervisor, lived: Lived, began: float) -> None:
        self._supervisor, self._lived, self._began = supervisor, lived, began
        self._restarts: dict[str, int] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-vigil", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(_STATUS_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        began = time.monotonic()
        try:
            status = self._supervisor.status()
        except Exception as error:  # noqa: BLE001  whatever it is: status has to answer
            self._lived.status_error = type(error).__name__
            return
        now = time.monotonic()
        self._lived.status_seconds = max(self._lived.status_seconds, now - began)
        for plugin_id, one in status.items():
            new = one.restarts - self._restarts.get(plugin_id, 0)
            self._restarts[plugin_id] = one.restarts
            self._lived.restarts += [Restart(plugin_id, now - self._began)] * new


class _Belongings:
    """What this process has before a round."""

    def __init__(self) -> None:
        self._processes = set(psutil.Process().children(recursive=True))
        self._descriptors = _descriptors()

    def left(self, used: Sequence[psutil.Process]) -> str:
        """What a round has left behind, in words; ``used``: the processes that it had at its end."""
        give_up_at = time.monotonic() + _TIDYING_SECONDS
        while (left := self._left(used)) and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return left

    def _left(self, used: Sequence[psutil.Process]) -> str:
        processes = {*used, *psutil.Process().children(recursive=True)} - self._processes
        alive = sum(process.is_running() for process in processes)
        descriptors = len(_descriptors() - self._descriptors)
        counts = [(alive, "processes"), (descriptors, "descriptors")]
        return " and ".join(f"{count} {what}" for count, what in counts if count)


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def _text(answer: Any) -> str:
    try:
        return json.dumps(answer, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError):  # a host of one's own may answer anything
        return repr(answer)


def _changed(folder: Path, original: Path) -> dict[str, str]:
    """The files that are not as in the original, with their digests; missing ones with none."""
    now, before = _listing(folder), _listing(original)
    changed = dict.fromkeys(before.keys() - now.keys(), "")
    for name in now:
        if now[name] != before.get(name):
            digest = _digest(folder / name)
            if name not in before or digest != _digest(original / name):
                changed[name] = digest
    return changed


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return reason(error)


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    listing = {}
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                stat = os.lstat(os.path.join(path, name))
                listing[os.path.relpath(os.path.join(path, name), folder)] = stat.st_size, stat.st_mtime_ns
    return listing


def _keys(state: Path, done: Iterable[Done]) -> dict[tuple[str, str], str]:
    """What the plugin storage holds of what was said to be set; nothing when it is the host's own."""
    file = state / "storage.sqlite3"
    if not file.exists():
        return {}
    wanted = {(plugin, target) for one in done for plugin, kind, target in one.effects if kind in _KEY_KINDS}
    storage = SqliteStorage(file)
    try:
        values = {key: storage.get(*key) for key in wanted}
    finally:
        storage.close()
    return {key: "" if value is None else hashlib.sha256(value).hexdigest() for key, value in values.items()}
