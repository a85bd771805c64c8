"""From a run that broke a promise to the smallest plan that still breaks it.

Delta debugging (ddmin: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) over the
faults that struck in the round of the counter-example, each at its exact place. Every try makes only that round again,
on fresh copies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Final

from isoplug.supervisor.chaos.hosts import HostFactory, PlainHost
from isoplug.supervisor.chaos.injector import Injection, Injector
from isoplug.supervisor.chaos.load import Stage
from isoplug.supervisor.chaos.plan import Plan
from isoplug.supervisor.chaos.promises import Verdict
from isoplug.supervisor.chaos.reference import step_of
from isoplug.supervisor.chaos.report import Ending, Promise, Report
from isoplug.supervisor.chaos.rounds import Arena
from isoplug.supervisor.chaos.run import Progress, Settings, load_of, round_of
from isoplug.supervisor.chaos.trial import Trial

__all__ = ["shrink"]

_MAX_TRIES: Final = 200
_MAX_SECONDS: Final = 300.0


class _Enough(Exception):
    """As many tries as may be."""


def shrink(
    settings: Settings,
    report: Report,
    make_host: HostFactory = PlainHost.make,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """``report``, which ``run(settings, make_host)`` made, with ``smallest``: the smallest plan found within a few
    minutes that breaks its first broken promise again. Without, when no promise broke, when it was not about one round,
    or when it does not break again: then it was no fault of the plan's. Raises SetupError."""
    promise = next((one for one in report.broken if _round(one)), None)
    if promise is None:
        return report
    with Arena(settings.plugins, settings.workspace) as arena:
        calls = sum(entry.step.round == _round(promise) for entry in report.calls)
        stages = round_of(settings, load_of(settings, arena, make_host).operations, _round(promise), calls)
        trial = Trial(arena, make_host, settings.timeout_seconds, keeps_references=True)
        return _Shrinking(report, promise, trial, stages, on_progress).shrunk()


class _Shrinking:
    def __init__(
        self,
        report: Report,
        promise: Promise,
        trial: Trial,
        stages: list[Stage],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._report, self._promise, self._trial, self._stages = report, promise, trial, stages
        self._on_progress = on_progress
        self._number = _round(promise)
        self._injections: list[Injection] = []
        self._tries = 0
        self._began = time.monotonic()

    def shrunk(self) -> Report:
        """See ``shrink``."""
        struck = [one for one in self._report.injections if one.place.step.round == self._number]
        if not self._breaks(struck, self._stages):
            return self._report
        with suppress(_Enough):
            self._cut()
            self._minimize()
            self._cut()
        plan = Plan.from_toml(self._plan(self._injections).to_toml())  # as it will be repeated
        verdict = self._judged(plan, self._stages)
        if not self._is_broken(verdict):
            return self._report
        calls = sum(entry.step.round < self._number for entry in self._report.calls) + _size(self._stages)
        return replace(self._report, smallest=plan, smallest_calls=calls)

    # --- fewer steps, fewer faults --------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Leave out the stages after the one in which it breaks."""
        for count in range(1, len(self._stages)):
            stages = self._stages[:count]
            made = {step for stage in stages for steps in (*stage.steps, stage.events) for step, _ in steps}
            injections = [one for one in self._injections if step_of(one) in made]
            if injections and self._breaks(injections, stages):
                return

    def _minimize(self) -> None:
        """ddmin: try parts, then what is left without each part, then smaller parts."""
        parts = 2
        while len(self._injections) > 1:
            chunks = _split(self._injections, parts)
            rests = [[one for one in self._injections if one not in chunk] for chunk in chunks]
            if any(self._breaks(chunk, self._stages) for chunk in chunks):
                parts = 2
            elif parts > 2 and any(self._breaks(rest, self._stages) for rest in rests):
                parts -= 1
            elif parts >= len(self._injections):
                return
            else:
                parts = min(len(self._injections), 2 * parts)

    # --- tries ----------------------------------------------------------------------------------------------------

    def _breaks(self, injections: list[Injection], stages: list[Stage]) -> bool:
        """Whether it still breaks; then it goes on from there. Raises _Enough."""
        if self._tries >= _MAX_TRIES or time.monotonic() - self._began > _MAX_SECONDS:
            raise _Enough
        self._tries += 1
        if not self._is_broken(self._judged(self._plan(injections), stages)):
            return False
        self._injections, self._stages = injections, stages
        return True

    def _judged(self, plan: Plan, stages: Sequence[Stage]) -> Verdict:
        self._on_progress(self._progress())
        verdict = Verdict()
        self._trial.round(self._number, stages, Injector(plan), verdict)
        return verdict

    def _is_broken(self, verdict: Verdict) -> bool:
        return any(one.name == self._promise.name and one.broken is not None for one in verdict.promises)

    def _plan(self, injections: Sequence[Injection]) -> Plan:
        return Plan(tuple(injection.rule() for injection in injections), self._report.plan.seed)

    def _progress(self) -> Progress:
        """Counts are those of the run."""
        endings = Counter(entry.ending for entry in self._report.calls)
        return Progress(
            seconds=time.monotonic() - self._began,
            calls=len(self._report.calls),
            injected=len(self._report.injections),
            answered=endings[Ending.ANSWERED],
            failed=endings[Ending.FAILED],
            wrong=endings[Ending.WRONG],
            late=endings[Ending.LATE],
            restarts=len(self._report.restarts),
            share=self._tries / _MAX_TRIES,
            phase="shrinking",
        )


def _round(promise: Promise) -> int:
    """The round of its counter-example; 0: of none."""
    return promise.broken.step.round if promise.broken is not None and promise.broken.step is not None else 0


def _size(stages: Sequence[Stage]) -> int:
    return sum(stage.size for stage in stages)


def _split(injections: Sequence[Injection], parts: int) -> list[list[Injection]]:
    """So many pieces, of nearly the same length."""
    bounds = [len(injections) * part // parts for part in range(parts + 1)]
    return [list(injections[low:high]) for low, high in pairwise(bounds)]
