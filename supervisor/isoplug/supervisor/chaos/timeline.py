"""What happened when, as marks in lanes: the rules of the timeline, and of the picture of recovery times. No I/O.

A page stays small and quick however long the run was: when there are too many marks, each stands for all that happened
in its share of the time.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from isoplug.shared.limits import clip
from isoplug.supervisor.chaos.place import EVENTS, Step
from isoplug.supervisor.chaos.report import Ending, FaultRow, Report

__all__ = ["Band", "Lane", "Mark", "Timeline", "bands_of", "scale_of", "seconds_text", "timeline_of"]

#: More than these, and a browser takes seconds to draw them, and a person sees a smear.
_MAX_MARKS = 3_000
_MAX_BINS = 240
_MIN_BINS = 40
_MAX_LANES = 24
_MAX_COUNTED = 6
_SHORTEST = 1e-4  # a logarithmic axis has no 0
_UNNAMED = "calls"
_RESTARTS = "restarts"
_OTHERS = "other callers"
_RECOVERY_BINS = 120
#: Of a plugin's words in a mark, of which there are thousands.
_WORD_BYTES = 100
_ENDINGS = frozenset(Ending)


@dataclass(frozen=True, slots=True)
class Mark:
    """A call, a fault or a restart; or so many of them. ``begin`` and ``end`` are from 0 to 1, of the whole run;
    ``base`` and ``height`` as well, of the lane. ``kind`` is an ``Ending``, ``fault``, ``restart`` or ``recovery``;
    ``text`` is for who points at it."""

    kind: str
    begin: float
    end: float
    text: str
    height: float = 1.0
    base: float = 0.0


@dataclass(frozen=True, slots=True)
class Lane:
    """What one caller did, or all restarts. Faults are drawn above the calls."""

    name: str
    calls: tuple[Mark, ...]
    above: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """``bin_seconds`` is 0 when each mark is one thing."""

    lanes: tuple[Lane, ...]
    seconds: float
    bin_seconds: float


@dataclass(frozen=True, slots=True)
class Band:
    """The recoveries of one fault: ``marks`` are counts along a logarithmic axis, in ``height``; ``median`` and
    ``slowest`` (the 99th percentile) are places on it, from 0 to 1."""

    name: str
    marks: tuple[Mark, ...]
    median: float
    slowest: float


@dataclass(frozen=True, slots=True)
class _Event:
    """``counted_as``: the word for it, and for others like it, where each mark is many."""

    lane: str
    kind: str
    counted_as: str
    began_seconds: float
    ended_seconds: float
    text: str


def timeline_of(report: Report) -> Timeline:
    """Lanes for the callers in their order, then one for restarts if there were any."""
    events = [*_calls(report), *_faults(report), *_restarts(report)]
    seconds = max([report.seconds, *(event.ended_seconds for event in events)]) or 1.0
    names = sorted({event.lane for event in events} - {_RESTARTS}, key=_natural)
    kept = names[:_MAX_LANES]
    lanes = defaultdict[str, list[_Event]](list)
    for event in events:
        lanes[event.lane if event.lane in kept or event.lane == _RESTARTS else _OTHERS].append(event)
    ordered = [name for name in (*kept, _OTHERS, _RESTARTS) if name in lanes]
    bins = 0 if len(events) <= _MAX_MARKS else max(_MIN_BINS, min(_MAX_BINS, _MAX_MARKS // len(ordered)))
    return Timeline(
        tuple(_lane(name, lanes[name], seconds, bins) for name in ordered), seconds, seconds / bins if bins else 0.0
    )


def scale_of(report: Report) -> tuple[float, ...]:
    """The powers of ten, in seconds, from below the fastest recovery to above the slowest; nothing without any."""
    times = [max(seconds, _SHORTEST) for row in report.faults for seconds in row.recovery_seconds]
    if not times:
        return ()
    first, last = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    return tuple(10.0**power for power in range(first, max(last, first + 1) + 1))


def bands_of(report: Report) -> tuple[Band, ...]:
    """For each fault that something recovered from, on the axis of ``scale_of``."""
    scale = scale_of(report)
    if not scale:
        return ()
    first, length = math.log10(scale[0]), math.log10(scale[-1]) - math.log10(scale[0])

    def place(seconds: float) -> float:
        return min(1.0, max(0.0, (math.log10(max(seconds, _SHORTEST)) - first) / length))

    return tuple(_band(row, place) for row in report.faults if row.recovery_seconds)


def seconds_text(seconds: float) -> str:
    """With a unit that fits: ``0.4 ms``, ``12 ms``, ``1.2 s``."""
    if seconds <= 0:
        return "0 s"
    if seconds < 1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


# --- inside -----------------------------------------------------------------------------------------------------------

#: How high a call stands, so that endings differ by more than their colour; and in which order they are piled up.
_HEIGHTS: dict[str, float] = {Ending.ANSWERED: 0.5, Ending.FAILED: 0.75, Ending.LATE: 1.0, Ending.WRONG: 1.0}
#: Of a pile, for endings of which one among thousands has to be seen.
_ALWAYS_SEEN = 0.2


def _calls(report: Report) -> Iterator[_Event]:
    for call in report.calls:
        how = f"{call.ending}{f' ({_word(call.error)})' if call.error else ''} in {seconds_text(call.took_seconds)}"
        struck = f", struck by {', '.join(call.faults)}" if call.faults else ""
        text = f"{call.step}: {_word(call.what)}: {how}{struck}"
        ended = call.began_seconds + call.took_seconds
        yield _Event(_lane_of(call.step), call.ending, call.ending, call.began_seconds, ended, text)


def _faults(report: Report) -> Iterator[_Event]:
    for one in report.injections:
        text = f"{one.fault} at {one.place}: {_word(one.plugin_id)} {_word(one.function or one.export)}"
        yield _Event(_lane_of(one.place.step), "fault", one.fault.name, one.at_seconds, one.at_seconds, text)


def _restarts(report: Report) -> Iterator[_Event]:
    for one in report.restarts:
        plugin = _word(one.plugin_id)
        yield _Event(_RESTARTS, "restart", plugin, one.at_seconds, one.at_seconds, f"restart of {plugin}")


def _word(text: str) -> str:
    return clip(text, _WORD_BYTES)


def _lane_of(step: Step) -> str:
    """What mailboxes deliver is drawn with the events themselves."""
    return EVENTS if step.caller.startswith(f"{EVENTS}/") else step.caller or _UNNAMED


def _natural(name: str) -> list[tuple[int, str]]:
    """``caller 10`` comes after ``caller 9``."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d{1,9})", name)]


def _lane(name: str, events: list[_Event], seconds: float, bins: int) -> Lane:
    calls = [event for event in events if event.kind in _ENDINGS]
    above = [event for event in events if event.kind not in _ENDINGS]
    if not bins:
        return Lane(name, _one_by_one(calls, seconds), _one_by_one(above, seconds))
    return Lane(name, tuple(_piles(calls, seconds, bins)), tuple(_counts(above, seconds, bins)))


def _one_by_one(events: list[_Event], seconds: float) -> tuple[Mark, ...]:
    return tuple(
        Mark(
            event.kind,
            event.began_seconds / seconds,
            event.ended_seconds / seconds,
            f"{seconds_text(event.began_seconds)}: {event.text}",
            _HEIGHTS.get(event.kind, 1.0),
        )
        for event in events
    )


def _piles(events: list[_Event], seconds: float, bins: int) -> Iterator[Mark]:
    """Calls: in each bin, one mark for each ending, on top of each other; the fullest bin is as high as the lane."""
    binned = _binned(events, seconds, bins)
    most = max((len(members) for members in binned.values()), default=1)
    for number, members in sorted(binned.items()):
        counts = Counter(event.counted_as for event in members)
        base = 0.0
        for ending in _HEIGHTS:
            if not counts[ending]:
                continue
            height = counts[ending] / most
            if ending in (Ending.WRONG, Ending.LATE):
                height = max(height, _ALWAYS_SEEN)
            base = min(base, 1 - height)
            yield Mark(
                ending, number / bins, (number + 1) / bins, _counted(number, seconds, bins, counts), height, base
            )
            base += height


def _counts(events: list[_Event], seconds: float, bins: int) -> Iterator[Mark]:
    """Faults or restarts: in each bin, one mark for all."""
    binned = _binned(events, seconds, bins)
    most = max((len(members) for members in binned.values()), default=1)
    for number, members in sorted(binned.items()):
        counts = Counter(event.counted_as for event in members)
        text = _counted(number, seconds, bins, counts)
        height = max(_ALWAYS_SEEN, len(members) / most)
        yield Mark(members[0].kind, number / bins, (number + 1) / bins, text, height)


def _binned(events: list[_Event], seconds: float, bins: int) -> dict[int, list[_Event]]:
    binned = defaultdict[int, list[_Event]](list)
    for event in events:
        binned[min(bins - 1, int(event.began_seconds / seconds * bins))].append(event)
    return binned


def _counted(number: int, seconds: float, bins: int, counts: Counter[str]) -> str:
    what = ", ".join(f"{count} {name}" for name, count in counts.most_common(_MAX_COUNTED))
    more = ", …" if len(counts) > _MAX_COUNTED else ""
    begin, end = number * seconds / bins, (number + 1) * seconds / bins
    return f"{seconds_text(begin)} to {seconds_text(end)}: {what}{more}"


def _band(row: FaultRow, place: Callable[[float], float]) -> Band:
    counts = Counter(min(_RECOVERY_BINS - 1, int(place(time) * _RECOVERY_BINS)) for time in row.recovery_seconds)
    most = max(counts.values())
    marks = tuple(
        Mark("recovery", one / _RECOVERY_BINS, (one + 1) / _RECOVERY_BINS, f"{count} times", 0.25 + 0.75 * count / most)
        for one, count in sorted(counts.items())
    )
    return Band(row.name, marks, place(row.recovery(50)), place(row.recovery(99)))
