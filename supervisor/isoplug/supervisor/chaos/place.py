"""Where in a run something happens, in words that are the same when the run is repeated.

Threads interleave as the machine likes, so nothing here counts over all of them: a caller's first, second, third step
are the same ones in each run, and so are a step's deliveries and host calls.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["EVENTS", "Place", "Step", "Steps", "current_step", "stepping"]

#: The caller of what a plugin's mailbox delivers: ``events/<plugin id>``.
EVENTS = "events"


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One thing that a caller does: a command, a call or an event. ``number`` counts from 1, with each caller. A run
    may have ``round``s, which begin with the same state; outside of ``isoplug chaos`` there is one, 0. With ``number``
    0 it stands for its round as a whole."""

    round: int
    caller: str
    number: int

    def __str__(self) -> str:
        if not self.number:
            return f"round {self.round}"
        return f"{f'round {self.round}, ' if self.round else ''}{self.caller or 'call'} {self.number}"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """``delivery`` counts the workers that a step has asked, from 1: its own, nested ones, further attempts.
    ``host_call`` counts within that delivery, from 1; 0 is the delivery itself."""

    step: Step
    delivery: int
    host_call: int = 0

    def __str__(self) -> str:
        host_call = f", host call {self.host_call}" if self.host_call else ""
        return f"{self.step}, delivery {self.delivery}{host_call}"


_current: ContextVar[Step | None] = ContextVar("isoplug_chaos_step", default=None)


@contextmanager
def stepping(step: Step) -> Iterator[None]:
    """What this thread asks of a supervisor within belongs to ``step``."""
    before = _current.set(step)
    try:
        yield
    finally:
        _current.reset(before)


def current_step() -> Step | None:
    """The one that this thread is in."""
    return _current.get()


class Steps:
    """Tells deliveries their places. Thread-safe.

    A caller who says nothing (``stepping``) gets a step for each call from outside, in the order in which they are
    delivered: the same in each run as long as one thread calls.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._round, self._event = 0, 0
        self._begin()

    def begin_round(self, number: int) -> None:
        """Steps are counted from 1 again, as those of this round. Call it while nothing is under way."""
        with self._lock:
            self._round, self._event = number, 0
            self._begin()

    def begin_event(self, number: int) -> None:
        """What mailboxes deliver from here on is this event, further attempts included. Call it while no event is under
        way."""
        with self._lock:
            self._event = number

    def _begin(self) -> None:
        self._numbers: defaultdict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(1))
        self._unnamed = threading.local()
        self._deliveries: defaultdict[Step, int] = defaultdict(int)

    def next_delivery(self, plugin_id: str, export: str, *, is_outside: bool) -> Place:
        """``is_outside``: it is no nested call."""
        step = _current.get()
        with self._lock:
            if step is None:
                step = self._unnamed_step(plugin_id, export, is_outside)
            self._deliveries[step] += 1
            return Place(step, self._deliveries[step])

    def _unnamed_step(self, plugin_id: str, export: str, is_outside: bool) -> Step:
        step: Step | None = getattr(self._unnamed, "step", None)
        if is_outside or step is None:
            caller = f"{EVENTS}/{plugin_id}" if export == "on_event" else ""
            number = self._event if caller and self._event else next(self._numbers[caller])
            step = self._unnamed.step = Step(self._round, caller, number)
        return step
