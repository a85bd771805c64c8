"""A whole run: rounds of steps with faults, each compared with the same round without."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from isoplug.shared.errors import InvalidArgument, SetupError
from isoplug.supervisor.chaos.hosts import HostFactory, PlainHost
from isoplug.supervisor.chaos.injector import Injection, Injector
from isoplug.supervisor.chaos.load import Operation, Stage, cut, operations_of, stages_of
from isoplug.supervisor.chaos.place import EVENTS
from isoplug.supervisor.chaos.plan import Plan
from isoplug.supervisor.chaos.promises import Verdict
from isoplug.supervisor.chaos.reference import Judged
from isoplug.supervisor.chaos.report import CallEntry, Ending, FaultRow, Report, Restart
from isoplug.supervisor.chaos.rounds import Arena, Done, Lived
from isoplug.supervisor.chaos.trial import Trial

__all__ = ["Load", "Progress", "Settings", "load_of", "round_of", "run"]

_PROGRESS_SECONDS: Final = 0.1
#: Resident memory may move by this much: arenas of the allocator, SQLite's pages.
_FLAT_BYTES: Final = 48 << 20
#: What the report itself keeps of a call and of an injection.
_KEPT_BYTES: Final = 2_000
#: Fewer rounds say nothing about memory.
_MEMORY_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What to put through faults, and how. Raises InvalidArgument.

    ``operations``: what callers do; none: what the plugins declare. ``calls``, the number of steps of the run, wins
    over ``duration_seconds``, and makes it repeatable exactly. Each round begins with fresh copies of plugins and
    workspace, and without state; in it every caller makes ``round_calls`` steps, each with ``timeout_seconds``.
    """

    plugins: Path | str
    workspace: Path | str | None
    plan: Plan
    operations: tuple[Operation, ...] = ()
    callers: int = 4
    duration_seconds: float | None = 30.0
    calls: int | None = None
    round_calls: int = 50
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("callers", "calls", "round_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} must be 1 or more, not {value}")
        if self.calls is None and self.duration_seconds is None:
            raise InvalidArgument("say how long the run is: duration_seconds, or calls")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: counts since it began, ``share`` of it from 0 to 1."""

    seconds: float
    calls: int
    injected: int
    answered: int
    failed: int
    wrong: int
    late: int
    restarts: int
    share: float
    phase: Literal["running", "comparing", "shrinking"]


def run(
    settings: Settings,
    make_host: HostFactory = PlainHost.make,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_stopped: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Put plugins, and a host, through the faults of a plan. ``on_progress`` is called a few times a second, from any
    thread. When an interrupt or SystemExit ends it, ``on_stopped`` gets the report of the rounds that were whole by
    then, if there are any. Raises SetupError for what cannot be run."""
    with Arena(settings.plugins, settings.workspace) as arena:
        one = _Run(settings, arena, make_host, load_of(settings, arena, make_host), on_progress)
        try:
            one.live()
        except (KeyboardInterrupt, SystemExit):
            if one.rounds:
                on_stopped(one.report(is_stopped=True))
            raise
        return one.report()


@dataclass(frozen=True, slots=True)
class Load:
    """What callers do: ``operations``; and, by plugin, why it is ``not_loaded``."""

    operations: tuple[Operation, ...]
    not_loaded: tuple[tuple[str, str], ...]


def load_of(settings: Settings, arena: Arena, make_host: HostFactory) -> Load:
    """The operations that were named, or else those that the plugins declare. Raises SetupError when there are none, or
    when there is no such plugin."""
    plugins, workspace, state = arena.fresh()
    host = make_host(plugins, workspace, state, ())
    try:
        operations = settings.operations or operations_of(host.supervisor)
        plugin_ids = sorted(host.supervisor.plugins)
        errors = sorted(host.supervisor.load_errors.items())
    finally:
        host.close()
    # The copy's place is another one in each run.
    not_loaded = tuple((name, str(error).replace(str(plugins), str(settings.plugins))) for name, error in errors)
    reasons = "".join(f"; {name}: {error}" for name, error in not_loaded)
    if not operations:
        raise SetupError(
            f"the plugins declare no commands and receive no events, so there is nothing to call{reasons}; "
            "name operations, such as --command PLUGIN:COMMAND"
        )
    for operation in operations:
        if operation.kind == "command" and operation.plugin_id not in plugin_ids:
            there = ", ".join(plugin_ids) or "none"
            raise SetupError(f"{operation.text}: there is no such plugin; there are: {there}{reasons}")
    return Load(operations, not_loaded)


def round_of(settings: Settings, operations: Sequence[Operation], number: int, calls: int | None) -> list[Stage]:
    """What happens in round ``number``, of which the first ``calls`` steps are made."""
    stages = stages_of(operations, settings.callers, settings.round_calls, settings.plan.seed, number)
    return stages if calls is None else cut(stages, calls)


class _Run:
    """What is kept of it changes only when a round is whole (``_take``)."""

    def __init__(
        self,
        settings: Settings,
        arena: Arena,
        make_host: HostFactory,
        load: Load,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._settings, self._load, self._on_progress = settings, load, on_progress
        self._trial = Trial(arena, make_host, settings.timeout_seconds, on_done=self._progressed)
        self._verdict = Verdict()
        self._began = self._trial.began
        self._injector = Injector(settings.plan)
        self.rounds = 0
        self._injections: tuple[Injection, ...] = ()
        self._entries: list[CallEntry] = []
        self._restarts: list[Restart] = []
        self._answers: defaultdict[str, list[float]] = defaultdict(list)  # when each plugin took part in an answer
        self._uncompared = 0
        self._memory: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._phase: Literal["running", "comparing"] = "running"
        self._reported_at = 0.0

    def live(self) -> None:
        while not self._is_over():
            self._round(self.rounds + 1)

    def report(self, *, is_stopped: bool = False) -> Report:
        """To be asked for once."""
        self._check_memory()
        self._note()
        injections = tuple(sorted(self._injections, key=lambda one: one.place))
        return Report(
            plan=self._settings.plan,
            callers=self._settings.callers,
            calls=tuple(self._entries),
            injections=injections,
            faults=_rows(injections, self._entries, self._answers),
            promises=self._verdict.promises,
            repeat=f"--seed {self._settings.plan.seed} --calls {len(self._entries)}",
            restarts=tuple(self._restarts),
            seconds=time.monotonic() - self._began,
            not_loaded=self._load.not_loaded,
            is_stopped=is_stopped,
        )

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self._settings.calls is not None:
            return len(self._entries) >= self._settings.calls
        return bool(self._entries) and self._is_time_over()

    def _is_time_over(self) -> bool:
        seconds = self._settings.duration_seconds
        return self._settings.calls is None and seconds is not None and time.monotonic() - self._began >= seconds

    def _round(self, number: int) -> None:
        settings, done = self._settings, len(self._entries)
        stages = round_of(
            settings, self._load.operations, number, None if settings.calls is None else settings.calls - done
        )
        self._phase, verdict = "running", Verdict()
        lived, judged = self._trial.round(
            number, stages, self._injector, verdict, is_over=self._is_time_over, on_lived=self._compare
        )
        self._take(lived, judged, verdict)

    def _compare(self, _: Lived) -> None:
        self._phase = "comparing"

    def _take(self, lived: Lived, judged: Judged, verdict: Verdict) -> None:
        self.rounds += 1
        self._verdict.add(verdict)
        self._injections = tuple(self._injector.injections)
        self._entries += judged.entries
        self._uncompared += judged.uncompared
        self._restarts += lived.restarts
        with self._lock:
            self._under_way.clear()
        for done in lived.done.values():
            if done.error is None and not done.stray:
                for plugin_id in done.plugins:
                    self._answers[plugin_id].append(done.began_seconds + done.took_seconds)
        kept = _KEPT_BYTES * (len(self._entries) + len(self._injector.injections))
        self._memory.append((psutil.Process().memory_info().rss, kept))

    # --- what is said ---------------------------------------------------------------------------------------------

    def _progressed(self, done: Done) -> None:
        now = time.monotonic()
        with self._lock:
            if self._phase == "running":
                self._under_way["calls"] += 1
                self._under_way["failed" if done.error is not None else "answered"] += 1
            if now - self._reported_at < _PROGRESS_SECONDS:
                return
            self._reported_at = now
            under_way = self._under_way.copy()
        endings = Counter(entry.ending for entry in self._entries)
        seconds, calls = now - self._began, len(self._entries) + under_way["calls"]
        whole, so_far = (
            (self._settings.calls, calls) if self._settings.calls else (self._settings.duration_seconds or 1.0, seconds)
        )
        self._on_progress(
            Progress(
                seconds,
                calls,
                len(self._injector.injections),
                endings[Ending.ANSWERED] + under_way["answered"],
                endings[Ending.FAILED] + under_way["failed"],
                endings[Ending.WRONG],
                endings[Ending.LATE],
                len(self._restarts),
                min(1.0, so_far / whole),
                self._phase,
            )
        )

    def _note(self) -> None:
        if self._uncompared:
            # Whom a fault of the whole process disturbs is a matter of luck.
            is_known = not any(rule.fault.is_global for rule in self._settings.plan.rules)
            self._verdict.note(
                "same-answers",
                f"{self._uncompared if is_known else 'some'} answers were not compared: they may depend on a call that "
                "failed half-way, or of which a plugin was told by a fault",
            )
        if _have_shared_plugins(self._entries):
            self._verdict.note(
                "same-answers",
                "several callers used the same plugin: answers that depend on who came first were not compared; "
                "--callers 1 compares them",
            )
        if not any(entry.step.caller == EVENTS for entry in self._entries):
            self._verdict.leaves_open("events", "none were sent")

    def _check_memory(self) -> None:
        if len(self._memory) < _MEMORY_ROUNDS:
            self._verdict.leaves_open("memory", f"only looked at from {_MEMORY_ROUNDS} rounds on")
            return
        (early, kept_early), (late, kept_late) = self._memory[len(self._memory) // 4], self._memory[-1]
        if late - early > _FLAT_BYTES + kept_late - kept_early:
            self._verdict.breaks("memory", f"resident memory grew from {early >> 20} to {late >> 20} MiB")


def _have_shared_plugins(entries: Sequence[CallEntry]) -> bool:
    callers: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.plugin_id:
            callers[entry.plugin_id].add(entry.step.caller)
    return any(len(names) > 1 for names in callers.values())


def _rows(
    injections: Sequence[Injection], entries: Sequence[CallEntry], answers: dict[str, list[float]]
) -> tuple[FaultRow, ...]:
    """By fault, in the order of their names."""
    ordered = {plugin_id: sorted(times) for plugin_id, times in answers.items()}
    recovery: defaultdict[str, list[float]] = defaultdict(list)
    for injection in injections:
        times = ordered.get(injection.plugin_id, [])
        after = bisect_left(times, injection.at_seconds)
        if after < len(times):
            recovery[injection.fault.name].append(times[after] - injection.at_seconds)
    endings: defaultdict[str, Counter[Ending]] = defaultdict(Counter)
    for entry in entries:
        for name in set(entry.faults):
            endings[name][entry.ending] += 1
    return tuple(
        FaultRow(
            name,
            count,
            endings[name][Ending.ANSWERED],
            endings[name][Ending.FAILED],
            endings[name][Ending.WRONG],
            endings[name][Ending.LATE],
            tuple(recovery[name]),
        )
        for name, count in sorted(Counter(injection.fault.name for injection in injections).items())
    )
