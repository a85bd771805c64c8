"""What the figures should come to. Each goal is data; ``judge`` is pure.

Most are ratios of two figures from the same run, which a faster or slower machine changes little. The rest are bounds
for a machine like the one that they were set on: two cores of a server, where ``import extism`` takes 50 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from isoplug.supervisor.bench.figures import Figure, Unit
from isoplug.supervisor.bench.names import Name

__all__ = ["GOALS", "Added", "At", "Goal", "Least", "Sum", "Verdict", "judge", "judge_all", "sections_far_off"]


class At(StrEnum):
    """Which percentile of a figure."""

    P50 = "p50"
    P99 = "p99"


#: A 99th percentile of fewer is the worst of a handful.
_SAMPLES_FOR_P99: Final = 100


@dataclass(frozen=True, slots=True)
class Sum:
    """Of these figures; their 99th percentiles as far as they have a hundred samples."""

    names: tuple[Name, ...]
    at: At = At.P50


@dataclass(frozen=True, slots=True)
class Least:
    """The best of these figures, of those that were measured."""

    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What each of ``times`` further steps adds."""

    without: Name
    with_them: Name
    times: int


Term: TypeAlias = Sum | Least | Added


@dataclass(frozen=True, slots=True)
class Goal:
    """``over`` ÷ ``under`` is to be at most, or at least, ``bound``. Without ``under``, ``over`` itself is, in
    ``unit``."""

    name: str
    meaning: str
    over: Term
    bound: float
    under: Term | None = None
    is_floor: bool = field(default=False, kw_only=True)
    unit: Unit | None = field(default=None, kw_only=True)

    @property
    def names(self) -> frozenset[str]:
        """Of the figures that it is about."""
        return frozenset(name for term in (self.over, self.under) if term is not None for name in _names(term))


@dataclass(frozen=True, slots=True)
class Verdict:
    """``value`` is None when a part of it was not measured."""

    goal: Goal
    value: float | None

    @property
    def is_met(self) -> bool | None:
        return self._is_within(self.goal.bound)

    @property
    def is_far_off(self) -> bool:
        """Worse than twice the goal; of a goal that is a least value, less than half."""
        return self._is_within(self.goal.bound * (0.5 if self.goal.is_floor else 2.0)) is False

    def _is_within(self, bound: float) -> bool | None:
        if self.value is None:
            return None
        return self.value >= bound if self.goal.is_floor else self.value <= bound


GOALS: Final = (
    Goal(
        "isolated call ÷ (PAIR ping-pong + in-process call)",
        "two processes cannot do better than a ping-pong and the call itself",
        Sum((Name.CALL,)),
        1.15,
        Sum((Name.PAIR, Name.IN_PROCESS)),
    ),
    Goal(
        "isolated call ÷ best process pool",
        "ProcessPoolExecutor, pebble and loky, which isolate less",
        Sum((Name.CALL,)),
        0.5,
        Least((Name.PROCESS_POOL, Name.PEBBLE, Name.LOKY)),
    ),
    Goal(
        "a host call adds ÷ PAIR ping-pong",
        "host_file_exists, permission-checked; of ten in one call",
        Added(Name.CALL, Name.CALL_TEN, 10),
        1.2,
        Sum((Name.PAIR,)),
    ),
    Goal(
        "AsyncSupervisor call ÷ Supervisor call",
        "one caller",
        Sum((Name.CALL_ASYNC,)),
        1.6,
        Sum((Name.CALL,)),
    ),
    Goal(
        "throughput, 4 callers ÷ 1",
        "each calls its own plugin, on two cores",
        Sum((Name.FOUR_CALLERS,)),
        2.2,
        Sum((Name.ONE_CALLER,)),
        is_floor=True,
    ),
    Goal(
        "throughput, 32 callers ÷ 4",
        "many threads do not get in each other's way",
        Sum((Name.MOST_CALLERS,)),
        0.95,
        Sum((Name.FOUR_CALLERS,)),
        is_floor=True,
    ),
    Goal(
        "kill -9 to next answer, p50",
        "noticed, and answered by a new worker",
        Sum((Name.RECOVERY,)),
        0.010,
        unit=Unit.SECONDS,
    ),
    Goal(
        "kill -9 to next answer, p99",
        "the same, in the worst of a hundred",
        Sum((Name.RECOVERY,), At.P99),
        0.030,
        unit=Unit.SECONDS,
    ),
    Goal(
        "worker start, template there",
        "fork, instance, lock-down, init",
        Sum((Name.START,)),
        0.010,
        unit=Unit.SECONDS,
    ),
    Goal(
        "load of 100 plugins ÷ load of 1",
        "with warm caches",
        Sum((Name.LOAD_MANY,)),
        30.0,
        Sum((Name.LOAD_ONE,)),
    ),
    Goal(
        "private memory of an idle worker",
        "what it alone needs; 200 plugins",
        Sum((Name.WORKER_MEMORY,)),
        10e6,
        unit=Unit.BYTES,
    ),
    Goal(
        "supervisor's memory per plugin",
        "200 plugins",
        Sum((Name.SUPERVISOR_MEMORY,)),
        0.3e6,
        unit=Unit.BYTES,
    ),
    Goal(
        "CPU of 200 idle plugins",
        "all processes together, of one core",
        Sum((Name.IDLE_CPU,)),
        0.01,
        unit=Unit.CORES,
    ),
    Goal(
        "10 MB by host_read_file ÷ the same in-process",
        "the same guest takes it into its memory",
        Sum((Name.READ,)),
        2.0,
        Sum((Name.READ_IN_PROCESS,)),
    ),
    Goal(
        "10 MB by host_request_file ÷ the same in-process",
        "the same guest takes it into its memory",
        Sum((Name.REQUEST,)),
        2.0,
        Sum((Name.REQUEST_IN_PROCESS,)),
    ),
    Goal(
        "durable writes, isoplug's storage ÷ bare SQLite",
        "writes a second, with the same durability; a guest's takes a host call more",
        Sum((Name.BARE_SQLITE,)),  # both are seconds a write
        0.8,
        Sum((Name.STORAGE,)),
        is_floor=True,
    ),
    Goal(
        "isoplug --version ÷ import extism",
        "whole processes; 120 ms to 50 ms",
        Sum((Name.VERSION,)),
        2.4,
        Sum((Name.IMPORT_EXTISM,)),
    ),
    Goal(
        "isoplug call ÷ import extism",
        "whole processes; 400 ms to 50 ms",
        Sum((Name.COMMAND,)),
        8.0,
        Sum((Name.IMPORT_EXTISM,)),
    ),
)


def judge_all(figures: Iterable[Figure]) -> tuple[Verdict, ...]:
    """One for each goal, in their order."""
    by_name = {figure.name: figure for figure in figures}
    return tuple(Verdict(goal, judge(goal, by_name)) for goal in GOALS)


def sections_far_off(figures: Sequence[Figure]) -> frozenset[str]:
    """Where figures come from that miss a goal by more than twice."""
    names = frozenset(name for verdict in judge_all(figures) if verdict.is_far_off for name in verdict.goal.names)
    return frozenset(figure.section for figure in figures if figure.name in names)


def judge(goal: Goal, figures: Mapping[str, Figure]) -> float | None:
    """The goal's value; None when a part of it was not measured, or is nothing that one could divide by."""
    over = _value(goal.over, figures)
    if over is None or goal.under is None:
        return over
    under = _value(goal.under, figures)
    return over / under if under else None


def _names(term: Term) -> tuple[Name, ...]:
    match term:
        case Sum(names) | Least(names):
            return names
        case Added(without, with_them):
            return without, with_them
        case _:
            assert_never(term)


def _value(term: Term, figures: Mapping[str, Figure]) -> float | None:
    match term:
        case Sum(names, at):
            parts = [_percentile(figures.get(name), at) for name in names]
            measured = [part for part in parts if part is not None]
            return sum(measured) if len(measured) == len(names) else None
        case Least(names):
            return min((figures[name].p50 for name in names if name in figures), default=None)
        case Added(without, with_them, times):
            if without not in figures or with_them not in figures:
                return None
            return (figures[with_them].p50 - figures[without].p50) / times
        case _:
            assert_never(term)


def _percentile(figure: Figure | None, at: At) -> float | None:
    if figure is None:
        return None
    if at is At.P50:
        return figure.p50
    return figure.p99 if figure.samples >= _SAMPLES_FOR_P99 else None
