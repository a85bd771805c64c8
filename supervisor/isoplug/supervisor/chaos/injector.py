"""Puts a plan into a supervisor: ``Supervisor(interceptors=[Injector(plan)])``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor.calls.interceptor import Delivery, Proceed, Serve
from isoplug.supervisor.chaos.faults import CallFault, Fault, HostCallFault
from isoplug.supervisor.chaos.place import Place, Steps
from isoplug.supervisor.chaos.plan import Plan, Rule

__all__ = ["Injection", "Injector"]

#: What guests say without waiting for an answer; there is nothing to fail.
_NOTICES = frozenset({"host_log"})


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that struck. ``at_seconds`` is since the injector was made; ``function`` is that of a host call."""

    place: Place
    fault: Fault
    plugin_id: str
    export: str
    function: str
    at_seconds: float = field(compare=False)

    def rule(self) -> Rule:
        """The rule by which it strikes there again, and nowhere else."""
        return Rule(self.fault, export=None if self.function else self.export, at=(self.place,))


class Injector:
    """An ``Interceptor``; thread-safe. ``injections`` grows as faults strike; ``on_injection`` hears of each one at
    once, in the thread of the call."""

    def __init__(self, plan: Plan, on_injection: Callable[[Injection], None] = lambda _: None) -> None:
        self.plan = plan
        self.injections: list[Injection] = []
        self._listeners = [on_injection]
        self._steps = Steps()
        self._lock = threading.Lock()
        self._seen: Counter[tuple[int, str]] = Counter()
        self._struck: Counter[tuple[int, str]] = Counter()
        self._began = time.monotonic()
        rules = list(enumerate(plan.rules))
        self._call_rules = [(n, rule, rule.fault) for n, rule in rules if isinstance(rule.fault, CallFault)]
        self._host_call_rules = [(n, rule, rule.fault) for n, rule in rules if isinstance(rule.fault, HostCallFault)]

    def tell(self, listener: Callable[[Injection], None]) -> None:
        """``listener`` hears of injections from here on, as ``on_injection`` does."""
        self._listeners.append(listener)

    def begin_round(self, number: int) -> None:
        """See ``Steps.begin_round``."""
        self._steps.begin_round(number)

    def begin_event(self, number: int) -> None:
        """See ``Steps.begin_event``."""
        self._steps.begin_event(number)

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor``."""
        if not delivery.is_lent and all(rule.export != delivery.export for rule in self.plan.rules):
            return proceed(delivery)
        place = self._steps.next_delivery(delivery.plugin_id, delivery.export, is_outside=not delivery.depth)
        if self._host_call_rules:
            delivery.serve = self._serving(delivery, place)
        for number, rule, fault in reversed(self._call_rules):
            if self._strikes(number, rule, delivery, place, ""):
                proceed = partial(fault.strike, proceed=proceed)
        return proceed(delivery)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _serving(self, delivery: Delivery, place: Place) -> Serve:
        host_calls = 0

        def serve(function: str, payload: bytes) -> bytes:
            nonlocal host_calls
            answer: Serve = delivery_serve
            if function not in _NOTICES:
                host_calls += 1
                here = Place(place.step, place.delivery, host_calls)
                for number, rule, fault in reversed(self._host_call_rules):
                    if self._strikes(number, rule, delivery, here, function):
                        answer = partial(_struck, fault, delivery, answer)
            return answer(function, payload)

        delivery_serve = delivery.serve
        return serve

    def _strikes(self, number: int, rule: Rule, delivery: Delivery, place: Place, function: str) -> bool:
        if not rule.matches(delivery.plugin_id, delivery.export, function, is_lent=delivery.is_lent):
            return False
        if isinstance(rule.fault, HostCallFault) and not rule.fault.concerns(function):
            return False
        key = (number, place.step.caller)
        seconds = time.monotonic() - self._began
        with self._lock:
            self._seen[key] += 1
            if rule.times is not None and self._struck[key] >= rule.times:
                return False
            if not self._is_due(number, rule, place, seconds):
                return False
            self._struck[key] += 1
            injection = Injection(place, rule.fault, delivery.plugin_id, delivery.export, function, seconds)
            self.injections.append(injection)
        for listener in tuple(self._listeners):
            listener(injection)
        return True

    def _is_due(self, number: int, rule: Rule, place: Place, seconds: float) -> bool:
        if rule.at:
            return place in rule.at
        if rule.probability is not None:
            return self.plan.chance(number, place) < rule.probability
        if rule.after_seconds is not None:
            is_first = not any(struck for (other, _), struck in self._struck.items() if other == number)
            return is_first and seconds >= rule.after_seconds
        return self._seen[number, place.step.caller] % (rule.every or 1) == 0


def _struck(fault: HostCallFault, delivery: Delivery, serve: Serve, function: str, payload: bytes) -> bytes:
    return fault.strike(delivery, function, payload, serve)
