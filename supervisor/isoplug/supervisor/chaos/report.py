"""What a run has shown, as values: for the terminal, for JSON, for the HTML page, for a test's assertion."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from isoplug.supervisor.chaos.injector import Injection
from isoplug.supervisor.chaos.place import Step
from isoplug.supervisor.chaos.plan import Plan

__all__ = ["Broken", "CallEntry", "Ending", "FaultRow", "Promise", "Report", "Restart"]


class Ending(StrEnum):
    """How a step of the load ended."""

    ANSWERED = "answered"  #: with a value, or with the error that the guest reports without any fault as well
    FAILED = "failed"  #: with an error that one of the faults which struck it explains
    WRONG = "wrong"  #: with an error that none of them explains, or with a value that is not the right one
    LATE = "late"  #: after its deadline


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One step: ``what`` is ``plugin:command`` or ``event <type>``; ``error`` the type of its error, or nothing;
    ``faults`` the names of those that struck it. Seconds since the run began."""

    step: Step
    plugin_id: str
    what: str
    ending: Ending
    error: str
    faults: tuple[str, ...]
    attempts: int
    began_seconds: float = field(compare=False)
    took_seconds: float = field(compare=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """A worker that came in the place of one that was lost."""

    plugin_id: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Broken:
    """A counter-example: what was promised and did not hold, first seen at ``step``. ``text`` is for a person."""

    text: str
    step: Step | None = None

    def __str__(self) -> str:
        """With its step, unless the text says it itself."""
        return self.text if self.step is None or str(self.step) in self.text else f"{self.step}: {self.text}"


@dataclass(frozen=True, slots=True)
class Promise:
    """An invariant that was watched: it held, or ``broken`` says where it first did not. ``note`` says what was not
    looked at, and why; when that was all of it, it is not ``is_checked``, and nobody knows whether it holds."""

    name: str
    means: str
    broken: Broken | None = None
    note: str = ""
    is_checked: bool = True


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One fault of the run: how often it struck, and how the steps that it struck ended. Recovery is the time from a
    strike to the next answer of the same plugin, in seconds; a strike after which there was none has no time."""

    name: str
    injected: int
    answered: int
    failed: int
    wrong: int
    late: int
    recovery_seconds: tuple[float, ...] = field(compare=False, default=())

    def recovery(self, percentile: float) -> float:
        """Of 0 to 100."""
        times = sorted(self.recovery_seconds)
        return times[min(len(times) - 1, int(len(times) * percentile / 100))] if times else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. Two runs of the same plan, seed and load have equal reports: times do not count (``==``).

    ``repeat`` is the command line, or the Python, that repeats it. ``smallest`` is the smallest plan that still breaks
    the first broken promise, when one broke and was shrunk, and ``smallest_calls`` how many calls of the load it takes.
    ``not_loaded`` has, by plugin, why it could not be loaded: it was not tested. A run that ``is_stopped`` was ended
    before its time, and has the rounds that were whole by then.
    """

    plan: Plan
    callers: int
    calls: tuple[CallEntry, ...]
    injections: tuple[Injection, ...]
    faults: tuple[FaultRow, ...]
    promises: tuple[Promise, ...]
    repeat: str
    restarts: tuple[Restart, ...] = field(compare=False, default=())
    seconds: float = field(compare=False, default=0.0)
    smallest: Plan | None = None
    smallest_calls: int | None = None
    not_loaded: tuple[tuple[str, str], ...] = ()
    is_stopped: bool = False

    @property
    def idle_faults(self) -> tuple[str, ...]:
        """Faults of the plan that never struck: nothing is known about them."""
        struck = {row.name for row in self.faults if row.injected}
        return tuple(sorted({rule.fault.name for rule in self.plan.rules} - struck))

    @property
    def always_failing(self) -> tuple[tuple[str, str], ...]:
        """What was never answered with a value, and the error that it ended in without a fault as well, as a command
        does that is not there, or needs parameters: little is known about it."""
        errors: dict[str, str] = {}
        for call in self.calls:
            if call.error and call.ending is Ending.ANSWERED:
                errors.setdefault(call.what, call.error)
        well = {call.what for call in self.calls if not call.error}
        return tuple(sorted((what, error) for what, error in errors.items() if what not in well))

    @property
    def broken(self) -> tuple[Promise, ...]:
        return tuple(promise for promise in self.promises if promise.broken is not None)
