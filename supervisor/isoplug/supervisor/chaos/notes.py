"""An interceptor that only looks: what each delivery of a run did and how it ended, by step."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from isoplug.shared.errors import (
    CallTimeout,
    CommandError,
    GuestTrap,
    PluginError,
    PluginNotFound,
    ResourceLimitExceeded,
    WorkerCrashed,
)
from isoplug.shared.messages import Failed, FailureKind, Returned
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.ledger import Ledger, Witness
from isoplug.supervisor.chaos.place import Step, current_step
from isoplug.supervisor.chaos.taint import Resource
from isoplug.supervisor.host import GuestAbort
from isoplug.supervisor.pool.budget import Exceeded
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["DeliveryNote", "EffectCount", "Notes", "StepNotes", "effects_of", "error_of"]

#: How often each effect happened: (plugin, kind, target).
EffectCount: TypeAlias = Counter[tuple[str, str, str]]

#: What a caller gets for what ends a delivery.
_ERRORS: dict[type[Exception], type[PluginError]] = {
    Silence: CallTimeout,
    Gone: WorkerCrashed,
    Breach: WorkerCrashed,
    Exceeded: ResourceLimitExceeded,
    GuestAbort: GuestTrap,
}
_FAILURES = {FailureKind.GUEST: CommandError, FailureKind.TRAP: GuestTrap}


@dataclass(frozen=True, slots=True)
class DeliveryNote:
    """``error``: the type of the error that ends the delivery for who made it; None: it was answered. ``record`` is
    that of the call from outside, and of all that belongs to it. ``is_recorded``: at least as many effects have been
    entered into it as the guest was told of."""

    plugin_id: str
    export: str
    depth: int
    error: type[PluginError] | None
    record: CallRecord
    is_recorded: bool
    touched: frozenset[Resource]


@dataclass(slots=True)
class StepNotes:
    """Of one step, in the order in which its deliveries ended."""

    deliveries: list[DeliveryNote] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """Deliveries that were not made by other plugins."""
        return sum(not delivery.depth for delivery in self.deliveries)

    @property
    def plugins(self) -> frozenset[str]:
        return frozenset(delivery.plugin_id for delivery in self.deliveries)

    @property
    def records(self) -> list[CallRecord]:
        return list({id(delivery.record): delivery.record for delivery in self.deliveries}.values())

    @property
    def touched(self) -> frozenset[Resource]:
        return frozenset().union(*(delivery.touched for delivery in self.deliveries))

    @property
    def lost_workers(self) -> frozenset[str]:
        """The plugins of which a worker was lost."""
        return frozenset(one.plugin_id for one in self.deliveries if one.error not in (None, CommandError))

    @property
    def has_lost_nested(self) -> bool:
        """Whether a plugin was told that the command which it had run has cost another one its worker."""
        return any(one.depth and one.error not in (None, CommandError) for one in self.deliveries)

    @property
    def effects(self) -> EffectCount:
        return effects_of(*self.records)

    def last_of(self, plugin_id: str) -> DeliveryNote | None:
        """The plugin's last one that was not made by another plugin."""
        own = [delivery for delivery in self.deliveries if delivery.plugin_id == plugin_id and not delivery.depth]
        return own[-1] if own else None


def effects_of(*records: CallRecord) -> EffectCount:
    """Those that are certain, and those that are not."""
    return Counter((effect.plugin_id, effect.kind, effect.target) for record in records for effect in record.effects)


def error_of(end: Returned | Failed | Exception) -> type[PluginError] | None:
    """What a caller gets for how a delivery ended; None: an answer."""
    if isinstance(end, Exception):
        return next((error for cause, error in _ERRORS.items() if isinstance(end, cause)), None)
    return _FAILURES.get(end.kind) if isinstance(end, Failed) else None


class Notes:
    """An ``Interceptor``; thread-safe. The first one, around those that inject: it sees how a delivery ends in the end.

    A delivery in a thread that has no step, such as a mailbox's, belongs to ``event``, the one that is being sent.
    """

    def __init__(self) -> None:
        #: Whose inputs are never set aside: one that two faults struck is not at fault.
        self.supervisor: Supervisor | None = None
        self.event: Step | None = None
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._steps: defaultdict[Step, StepNotes] = defaultdict(StepNotes)

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor``."""
        if not delivery.is_lent:
            return proceed(delivery)
        self._forgive(delivery.plugin_id)
        delivery.serve = witness = Witness(self.ledger, delivery)
        effects = delivery.record.effect_count
        error: type[PluginError] | None = None
        try:
            outcome = proceed(delivery)
            error = error_of(outcome)
            return outcome
        except (Silence, Gone, Breach, Exceeded, GuestAbort) as end:
            error = error_of(end)
            raise
        finally:
            is_recorded = delivery.record.effect_count - effects >= witness.acknowledged
            note = DeliveryNote(
                delivery.plugin_id,
                delivery.export,
                delivery.depth,
                error,
                delivery.record,
                is_recorded,
                frozenset(witness.touched),
            )
            step = current_step() or self.event
            if step is not None:
                with self._lock:
                    self._steps[step].deliveries.append(note)

    def take(self, step: Step) -> StepNotes:
        """What was noted of the step, which is over."""
        with self._lock:
            return self._steps.pop(step, None) or StepNotes()

    def _forgive(self, plugin_id: str) -> None:
        """A strike of the delivery before this one was the fault's."""
        if self.supervisor is not None:
            with suppress(PluginNotFound):  # it is just being unloaded
                self.supervisor.clear_poisoned(plugin_id)
