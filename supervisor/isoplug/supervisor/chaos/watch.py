"""Watches a supervisor under fault injection that nobody drives for the purpose, such as that of a test.

    watch = Watch(injector)
    with Supervisor("plugins", "journal", interceptors=[watch, injector]) as supervisor:
        ...
        for promise in watch.promises(supervisor):
            assert promise.broken is None, promise

There is no run without faults to compare with, so what the answers should be is the test's to say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from isoplug.shared.errors import PluginError, WorkerCrashed
from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, Returned
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.faults import HostCallFault
from isoplug.supervisor.chaos.injector import Injection, Injector
from isoplug.supervisor.chaos.ledger import Ledger, Witness
from isoplug.supervisor.chaos.notes import error_of
from isoplug.supervisor.chaos.place import Step
from isoplug.supervisor.chaos.promises import Verdict
from isoplug.supervisor.chaos.reference import AS_IT_LIKES
from isoplug.supervisor.chaos.report import Promise
from isoplug.supervisor.chaos.rounds import ALLOWANCE_SECONDS
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["Watch"]

#: Of what is watched here; the others need a run to compare with, or the supervisor's end.
_WATCHED: Final = (
    "answered",
    "in-time",
    "explained",
    "nothing-twice",
    "nothing-lost",
    "true-outcome",
    "events",
    "status",
)
_FLUSH_SECONDS: Final = 30.0
#: A status takes a millisecond; seconds would mean that it waited for somebody.
_SOON_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Entered:
    """A delivery that is under way, and those that were made for it."""

    delivery: Delivery
    outer: _Entered | None
    struck: list[Injection] = field(default_factory=list)


class Watch:
    """An ``Interceptor``, the one before ``injector``; thread-safe."""

    def __init__(self, injector: Injector) -> None:
        injector.tell(self._strike)
        self._verdict = Verdict()
        self._ledger = Ledger()
        self._here = threading.local()
        self._lock = threading.Lock()
        self._under_way = 0
        self._failed_with_effects: dict[int, CallRecord] = {}  # by identity, which is theirs as long as they are here
        self._undelivered: dict[tuple[str, bytes], Step | None] = {}

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor``."""
        outer: _Entered | None = getattr(self._here, "entered", None)
        entered = self._here.entered = _Entered(delivery, outer)
        if delivery.is_lent and not delivery.depth:
            self._check_repetition(entered)
        delivery.serve = witness = Witness(self._ledger, delivery)
        effects = delivery.record.effect_count
        error: type[PluginError] | None = None
        with self._lock:
            self._under_way += 1
        try:
            outcome = proceed(delivery)
            error = error_of(outcome)
            return outcome
        except Exception as end:
            error = error_of(end)
            raise
        finally:
            self._here.entered = outer
            with self._lock:
                self._under_way -= 1
                self._check(entered, error)
                if delivery.record.effect_count - effects < witness.acknowledged:
                    text = f"{_what(delivery)} has changed more than its record says"
                    self._verdict.breaks("true-outcome", text, _step(entered))

    def promises(self, supervisor: Supervisor, timeout: float = _FLUSH_SECONDS) -> tuple[Promise, ...]:
        """What held so far, and what did not. Waits for events that are on their way, at most ``timeout`` seconds. Call
        it when all calls have returned, before the supervisor is closed. Raises SupervisorClosed."""
        is_flushed = supervisor.flush_events(timeout)
        self._check_status(supervisor)
        with self._lock:
            if not is_flushed:
                self._verdict.breaks("events", f"events were still waiting after {timeout:g} s")
            for (plugin_id, _), step in list(self._undelivered.items())[:1]:
                text = f"an event whose worker died was never delivered again to {plugin_id}"
                self._verdict.breaks("events", text, step)
            if self._under_way:
                self._verdict.breaks("answered", f"{self._under_way} calls were never answered")
            for plugin_id, key in self._ledger.lost()[:1]:
                text = f"the key {clip(key, 120)!r} of {plugin_id} does not hold what the guest was told that it does"
                self._verdict.breaks("nothing-lost", text)
            return tuple(promise for promise in self._verdict.promises if promise.name in _WATCHED)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _strike(self, injection: Injection) -> None:
        """In the thread of the call that was struck."""
        entered: _Entered | None = getattr(self._here, "entered", None)
        while entered is not None:
            entered.struck.append(injection)
            entered = entered.outer

    def _check_repetition(self, entered: _Entered) -> None:
        """A call that had changed something is not made again by isoplug (``retries=``)."""
        delivery = entered.delivery
        with self._lock:
            if self._failed_with_effects.get(id(delivery.record)) is delivery.record:
                text = f"{_what(delivery)} was made again although it had changed something"
                self._verdict.breaks("nothing-twice", text, _step(entered))

    def _check(self, entered: _Entered, error: type[PluginError] | None) -> None:
        """With the lock held."""
        delivery = entered.delivery
        if time.monotonic() > delivery.deadline.at + ALLOWANCE_SECONDS:
            self._verdict.breaks("in-time", f"{_what(delivery)} ended after its deadline", _step(entered))
        if not delivery.is_lent:
            return
        self._check_event(entered, error)
        if error is None:
            return
        if not delivery.depth and delivery.record.effect_count:
            self._failed_with_effects[id(delivery.record)] = delivery.record
        if entered.struck and not any(issubclass(error, end) for end in _ends(entered)):
            names = ", ".join(sorted({injection.fault.name for injection in entered.struck}))
            text = f"{_what(delivery)} failed with {error.__name__}, which {names} does not explain"
            self._verdict.breaks("explained", text, _step(entered))

    def _check_event(self, entered: _Entered, error: type[PluginError] | None) -> None:
        """One whose worker died, and that had changed nothing, is delivered again."""
        delivery = entered.delivery
        if delivery.export != "on_event" or delivery.depth:
            return
        key = (delivery.plugin_id, delivery.data)
        if error is not None and issubclass(error, WorkerCrashed) and not delivery.record.effect_count:
            self._undelivered[key] = _step(entered)
        else:
            self._undelivered.pop(key, None)

    def _check_status(self, supervisor: Supervisor) -> None:
        began = time.monotonic()
        supervisor.status()
        if time.monotonic() - began > _SOON_SECONDS:
            self._verdict.breaks("status", "a status took seconds")


def _what(delivery: Delivery) -> str:
    return f"{delivery.export} of {delivery.plugin_id}"


def _step(entered: _Entered) -> Step | None:
    return entered.struck[0].place.step if entered.struck else None


def _ends(entered: _Entered) -> Iterator[type[PluginError]]:
    for injection in entered.struck:
        yield from injection.fault.ends
        is_nested = injection.plugin_id != entered.delivery.plugin_id
        if is_nested or isinstance(injection.fault, HostCallFault):
            yield from AS_IT_LIKES
