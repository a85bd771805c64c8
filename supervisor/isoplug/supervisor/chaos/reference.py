"""Compares a round with the same round without faults.

The reference makes the steps of the round once more, on fresh copies, without those that failed and had changed
nothing: whoever hears of such a failure knows that the step has not happened. What is answered must then be answered
the same, and have done the same.

- A step that failed when it had done something has an open end, and so has one of which a plugin was told by a fault
  (``Fault.is_told``): what may depend on it is not compared (``taint``).
- What varies by itself is not compared: what differs between two references, of which one makes the callers' steps in
  the opposite order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TypeAlias

from isoplug.shared.errors import (
    CommandError,
    ConfigError,
    GuestTrap,
    PermissionDenied,
    PluginError,
    PluginNotFound,
    PluginQuarantined,
)
from isoplug.shared.limits import clip
from isoplug.supervisor.chaos.faults import HostCallFault
from isoplug.supervisor.chaos.injector import Injection
from isoplug.supervisor.chaos.place import EVENTS, Step
from isoplug.supervisor.chaos.promises import Verdict
from isoplug.supervisor.chaos.report import CallEntry, Ending
from isoplug.supervisor.chaos.rounds import ALLOWANCE_SECONDS, Done, Lived, Order
from isoplug.supervisor.chaos.taint import Resource, Taint, changed_by, file, key, memory

__all__ = ["AS_IT_LIKES", "Again", "Judged", "judge", "step_of"]

#: Makes the round again without faults and without these steps.
Again: TypeAlias = Callable[[Collection[Step], Order], Lived]

#: How a guest may end when something that it asked for went wrong: as it likes.
AS_IT_LIKES: tuple[type[PluginError], ...] = (CommandError, ConfigError, PermissionDenied, GuestTrap)
#: What callers get while a plugin cannot be started.
_NOT_THERE: tuple[type[PluginError], ...] = (PluginNotFound, PluginQuarantined)
_SHOWN_BYTES = 120
#: How long a fault of the whole process acts.
_GLOBAL_SECONDS = 0.2


@dataclass(slots=True)
class Judged:
    """``entries`` of the round's steps, in their order; ``uncompared``: answered steps that were not compared, because
    of what had failed before them."""

    entries: list[CallEntry] = field(default_factory=list)
    uncompared: int = 0


@dataclass(frozen=True, slots=True)
class _Difference:
    """Something that is not as in the reference; ``look`` finds it in a ``Lived``, to see whether it varies."""

    promise: str
    text: str
    step: Step
    look: Callable[[Lived], object]


def step_of(injection: Injection) -> Step:
    """The step that it struck: of the deliveries of an event, the event's."""
    step = injection.place.step
    return Step(step.round, EVENTS, step.number) if step.caller.startswith(f"{EVENTS}/") else step


def judge(lived: Lived, injections: Sequence[Injection], again: Again, timeout: float, verdict: Verdict) -> Judged:
    """``injections``: those of the round. What was broken goes into ``verdict``."""
    return _Judge(lived, injections, timeout, verdict).judged(again)


class _Judge:
    def __init__(self, lived: Lived, injections: Sequence[Injection], timeout: float, verdict: Verdict) -> None:
        self._lived, self._timeout, self._verdict = lived, timeout, verdict
        self._done = sorted(lived.done.values(), key=lambda done: (done.stage, _is_event(done), done.step))
        self._struck: defaultdict[Step, list[Injection]] = defaultdict(list)
        for injection in injections:
            self._struck[step_of(injection)].append(injection)
        self._global = [injection for injection in injections if injection.fault.is_global]
        self._starts = [injection for injection in injections if step_of(injection) not in lived.done]
        self._failed = {done.step for done in self._done if self._is_explained(done)}
        self._skipped = {
            done.step for done in self._done if done.step in self._failed and not done.effects and _is_one(done)
        }
        self._wrong: set[Step] = set()  #: answered or failed otherwise than without faults

    def judged(self, again: Again) -> Judged:
        reference = again(self._skipped, Order.FORWARD)
        sources = self._sources(reference)
        taint = Taint(partial(self._touched, reference), partial(self._changed, reference), sources)
        taint.spread(list(stage) for _, stage in groupby(self._done, key=lambda done: (done.stage, _is_event(done))))
        found: list[_Difference] = []
        uncompared = 0
        for done in self._done:
            is_open = done.step in self._failed or self._is_told(done)  # also when it leaves nothing open
            if self._is_disturbed(done):
                self._settle(done, reference)
            elif done.step not in taint.steps:
                found += self._excess(done, reference) if is_open else self._differences(done, reference)
            if (is_open or done.step in taint.steps) and done.step not in self._failed:
                uncompared += 1
                found += self._strange_failure(done, reference)
        found += self._state_differences(reference, taint.resources)
        if found:
            second = again(self._skipped, Order.BACKWARD)
            found = [one for one in found if one.look(reference) == one.look(second)]
        for one in found:
            self._verdict.breaks(one.promise, one.text, one.step)
        self._wrong = {one.step for one in found}
        self._check_each()
        return Judged([self._entry(done) for done in sorted(self._done, key=lambda done: done.step)], uncompared)

    # --- errors and times -----------------------------------------------------------------------------------------

    def _is_explained(self, done: Done) -> bool:
        failure = _failure(done)
        return failure is not None and any(
            issubclass(failure, end) for injection in self._causes(done) for end in _ends(injection, done)
        )

    def _causes(self, done: Done) -> Iterable[Injection]:
        yield from self._struck[done.step]
        yield from (one for one in self._starts if one.plugin_id in {done.operation.plugin_id, *done.plugins})

    def _is_disturbed(self, done: Done) -> bool:
        """Whether a fault that strikes the whole process acted meanwhile. What comes of it is not known."""
        ended = done.began_seconds + done.took_seconds
        return any(done.began_seconds - _GLOBAL_SECONDS <= one.at_seconds <= ended for one in self._global)

    def _check_each(self) -> None:
        verdict = self._verdict
        for done in self._done:
            what = f"{done.operation.text} ({done.step})"
            if done.stray:
                verdict.breaks("answered", f"{what} raised {done.stray}, which is no PluginError", done.step)
            if self._is_late(done):
                verdict.breaks("in-time", f"{what} had {self._timeout:g} s and took longer", done.step)
            if not done.outcome_is_true:
                ended = "was answered" if done.error is None else f"failed and said {done.outcome.value}"
                verdict.breaks("true-outcome", f"{what} {ended}; it has changed more than it says", done.step)

    def _is_late(self, done: Done) -> bool:
        return done.took_seconds > self._timeout + ALLOWANCE_SECONDS

    # --- differences ----------------------------------------------------------------------------------------------

    def _sources(self, reference: Lived) -> dict[Step, frozenset[Resource]]:
        """What the steps with an open end leave open: all that they may have changed, and what plugins that live on
        have kept of it in memory."""
        sources = {}
        for done in self._done:
            is_told = self._is_told(done)
            resources: frozenset[Resource] = frozenset()
            if (is_told or done.step in self._failed) and done.step not in self._skipped:
                resources = self._changed(reference, done)
            if is_told or done.step in self._failed:
                # Of several attempts, one may have lost the worker, and another one told the next.
                lost = frozenset[str]() if is_told and done.attempts > 1 else done.lost_workers
                resources |= {memory(plugin_id) for plugin_id in done.plugins - lost}
            sources[done.step] = resources
        return sources

    def _is_told(self, done: Done) -> bool:
        """Whether a plugin has heard of a fault, and may have answered, and done, something else for it."""
        causes = list(self._causes(done))
        is_heard = any(one.fault.is_told for one in causes) or (done.has_lost_nested and bool(causes))
        return is_heard or self._is_disturbed(done)

    def _touched(self, reference: Lived, done: Done) -> frozenset[Resource]:
        other = reference.done.get(done.step)
        both = (done,) if other is None else (done, other)
        memories = (memory(plugin_id) for one in both for plugin_id in one.plugins)
        return self._changed(reference, done).union(*(one.touched for one in both), memories)

    def _changed(self, reference: Lived, done: Done) -> frozenset[Resource]:
        other = reference.done.get(done.step)
        effects = done.effects if other is None else done.effects | other.effects
        return frozenset(resource for effect in effects for resource in changed_by(effect))

    def _differences(self, done: Done, reference: Lived) -> Iterator[_Difference]:
        step, other = done.step, reference.done.get(done.step)
        if other is None:
            return
        what = f"{done.operation.text} ({step})"
        undelivered = sorted(other.handled.keys() - done.handled.keys()) if step.caller == EVENTS else []
        for plugin_id in undelivered:
            yield _Difference(
                "events", f"{what} was never delivered to {plugin_id}", step, partial(_is_handled, step, plugin_id)
            )
        mine, its = _end(done), _end(other)
        if mine != its and not undelivered:
            promise = "explained" if _failure(done) is not None else "same-answers"
            yield _Difference(
                promise, f"{what} {_said(mine)}; without faults it {_said(its)}", step, partial(_end_at, step)
            )
        yield from self._excess(done, reference)
        lost = "events" if step.caller == EVENTS else "nothing-lost"
        for effect in sorted(other.effects - done.effects)[:1]:
            yield _count(lost, done, other, effect)

    def _excess(self, done: Done, reference: Lived) -> Iterator[_Difference]:
        other = reference.done.get(done.step)
        if other is not None:
            for effect in sorted(done.effects - other.effects)[:1]:
                yield _count("nothing-twice", done, other, effect)

    def _settle(self, done: Done, reference: Lived) -> None:
        """A disturbed step that failed otherwise than without faults failed for that."""
        other = reference.done.get(done.step)
        if _failure(done) is not None and (other is None or _failure(other) is not _failure(done)):
            self._failed.add(done.step)

    def _strange_failure(self, done: Done, reference: Lived) -> Iterator[_Difference]:
        """Of a step that is not compared. A guest may say no because of what failed before; nothing else may happen."""
        failure, other = _failure(done), reference.done.get(done.step)
        if failure is None or issubclass(failure, AS_IT_LIKES) or (other is not None and failure is _failure(other)):
            return
        text = f"{done.operation.text} ({done.step}) {_said(_end(done))}, which no fault explains"
        yield _Difference("explained", text, done.step, lambda _: None)

    def _state_differences(self, reference: Lived, spoiled: Collection[Resource]) -> Iterator[_Difference]:
        """A file or a key is not what it should be at the end of the round."""
        for name in sorted(self._lived.keys.keys() & reference.keys.keys()):
            if key(*name) not in spoiled and self._lived.keys[name] != reference.keys[name]:
                what = f"the key {clip(name[1], _SHOWN_BYTES)!r} of {name[0]}"
                yield self._state(what, {name[0]}, partial(_key_at, name))
        for path in sorted(self._lived.files.keys() | reference.files.keys()):
            if file(path) not in spoiled and self._lived.files.get(path) != reference.files.get(path):
                yield self._state(f"the file {clip(path, _SHOWN_BYTES)!r}", None, partial(_file_at, path))

    def _state(self, what: str, plugins: set[str] | None, look: Callable[[Lived], object]) -> _Difference:
        """Somebody who said that nothing was changed may have lied; else something was lost that had been said."""
        silent = [one for one in self._done if one.step in self._skipped and (not plugins or plugins & one.plugins)]
        text = f"{what} is not at the end of the round what it is without faults"
        if not silent:
            return _Difference("nothing-lost", text, Step(self._done[0].step.round, "", 0), look)
        step = silent[0].step
        said = f"{silent[0].operation.text} ({step}) failed and said that it had changed nothing"
        return _Difference("true-outcome", f"{text}; {said}", step, look)

    def _entry(self, done: Done) -> CallEntry:
        failure = _failure(done)
        ending = Ending.ANSWERED
        if self._is_late(done):
            ending = Ending.LATE
        elif done.step in self._wrong or done.stray:
            ending = Ending.WRONG
        elif done.step in self._failed:
            ending = Ending.FAILED
        return CallEntry(
            done.step,
            done.operation.plugin_id,
            done.operation.text,
            ending,
            done.stray or ("" if failure is None else failure.__name__),
            tuple(one.fault.name for one in sorted(self._struck[done.step], key=lambda one: one.place)),
            done.attempts,
            done.began_seconds,
            done.took_seconds,
        )


def _failure(done: Done) -> type[PluginError] | None:
    """How the step failed; an event's failures are heard by nobody but the watch."""
    if done.error is not None:
        return done.error
    return (
        next((error for _, error in sorted(done.handled.items()) if error is not None), None)
        if _is_event(done)
        else None
    )


def _is_event(done: Done) -> bool:
    return done.operation.kind == "event"


def _is_one(done: Done) -> bool:
    """Whether the step happened as a whole or not at all; an event may have reached one plugin and not another."""
    return not _is_event(done) or len(done.handled) == 1


def _ends(injection: Injection, done: Done) -> tuple[type[PluginError], ...]:
    """The errors that the strike explains."""
    own = injection.place.step.caller.removeprefix(f"{EVENTS}/") if _is_event(done) else done.operation.plugin_id
    ends = injection.fault.ends
    if injection.plugin_id != own or isinstance(injection.fault, HostCallFault):
        ends += AS_IT_LIKES
    if step_of(injection) != done.step and not injection.fault.is_global:
        ends += _NOT_THERE
    return ends


def _end(done: Done) -> tuple[str | None, str]:
    failure = _failure(done)
    return done.answer, "" if failure is None else failure.__name__


def _said(end: tuple[str | None, str]) -> str:
    answer, error = end
    return f"failed with {error}" if error else f"answered {clip(answer or '', _SHOWN_BYTES)}"


def _count(promise: str, done: Done, other: Done, effect: tuple[str, str, str]) -> _Difference:
    plugin_id, kind, target = effect
    text = (
        f"{done.operation.text} ({done.step}): {kind} {clip(target, _SHOWN_BYTES)} of {plugin_id} happened "
        f"{done.effects[effect]} times, without faults {other.effects[effect]}"
    )
    return _Difference(promise, text, done.step, partial(_effect_at, done.step, effect))


def _effect_at(step: Step, effect: tuple[str, str, str], lived: Lived) -> object:
    done = lived.done.get(step)
    return None if done is None else done.effects[effect]


def _end_at(step: Step, lived: Lived) -> object:
    done = lived.done.get(step)
    return None if done is None else _end(done)


def _is_handled(step: Step, plugin_id: str, lived: Lived) -> object:
    done = lived.done.get(step)
    return done is not None and plugin_id in done.handled


def _key_at(key: tuple[str, str], lived: Lived) -> object:
    return lived.keys.get(key)


def _file_at(name: str, lived: Lived) -> object:
    return lived.files.get(name)
