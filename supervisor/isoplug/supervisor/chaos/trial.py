"""One round put to the test: made with faults, made again without, and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor import wall_clock
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.hosts import HostFactory
from isoplug.supervisor.chaos.injector import Injector
from isoplug.supervisor.chaos.load import Stage
from isoplug.supervisor.chaos.place import Step
from isoplug.supervisor.chaos.promises import Verdict
from isoplug.supervisor.chaos.reference import Judged, judge
from isoplug.supervisor.chaos.rounds import Arena, Done, Lived, Order

__all__ = ["Trial"]

#: A status takes a millisecond; seconds would mean that it waited for somebody.
_SOON_SECONDS: Final = 5.0
#: Another second, minute, hour, day, month and year.
_ANOTHER_DAY_SECONDS: Final = 399 * 24 * 3600.0 + 3600.0 + 60.0 + 1.0


@dataclass(slots=True)
class Trial:
    """Tries rounds in ``arena``. ``began`` is what seconds are counted from; ``on_done`` hears of each step, in the
    thread of its caller. ``keeps_references``: the same rounds will be tried again, and are the same without faults."""

    arena: Arena
    make_host: HostFactory
    timeout_seconds: float
    began: float = field(default_factory=time.monotonic)
    on_done: Callable[[Done], None] = lambda _: None
    keeps_references: bool = False
    _references: dict[tuple[int, int, frozenset[Step], Order], Lived] = field(default_factory=dict)

    def round(
        self,
        number: int,
        stages: Sequence[Stage],
        injector: Injector,
        verdict: Verdict,
        *,
        is_over: Callable[[], bool] = lambda: False,
        on_lived: Callable[[Lived], None] = lambda _: None,
    ) -> tuple[Lived, Judged]:
        """Make round ``number``, and compare. ``is_over`` is asked between stages; ``on_lived`` is told what the round
        was before it is compared. What was broken goes into ``verdict``. Raises SetupError."""
        first = len(injector.injections)
        injector.begin_round(number)
        lived = self._live(stages, Order.AT_ONCE, (), injector, is_over=is_over)
        on_lived(lived)
        made = stages[: 1 + max((done.stage for done in lived.done.values()), default=0)]

        def again(skipped: Collection[Step], order: Order) -> Lived:
            return self._reference(number, made, order, frozenset(skipped))

        judged = judge(lived, injector.injections[first:], again, self.timeout_seconds, verdict)
        _check_whole(lived, made, number, verdict)
        return lived, judged

    def _reference(self, number: int, stages: Sequence[Stage], order: Order, skipped: frozenset[Step]) -> Lived:
        key = (number, sum(stage.size for stage in stages), skipped, order)
        around = (_AnotherDay(),) if order is Order.BACKWARD else ()
        lived = self._references.get(key) or self._live(stages, order, skipped, None, around)
        if self.keeps_references:
            self._references[key] = lived
        return lived

    def _live(
        self,
        stages: Sequence[Stage],
        order: Order,
        skipped: Collection[Step],
        injector: Injector | None,
        interceptors: Sequence[Interceptor] = (),
        is_over: Callable[[], bool] = lambda: False,
    ) -> Lived:
        return self.arena.live(
            self.make_host,
            stages,
            self.timeout_seconds,
            order=order,
            injector=injector,
            interceptors=interceptors,
            skipped=skipped,
            is_over=is_over,
            on_done=self.on_done,
            began=self.began,
        )


class _AnotherDay:
    """An ``Interceptor``: the clock on the wall is off by a day and more, so that what depends on it varies."""

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        with wall_clock.jumped(_ANOTHER_DAY_SECONDS):
            return proceed(delivery)


def _check_whole(lived: Lived, stages: Sequence[Stage], number: int, verdict: Verdict) -> None:
    """What is to be seen of the round as a whole."""
    whole = Step(number, "", 0)
    made = [step for stage in stages for steps in (*stage.steps, stage.events) for step, _ in steps]
    never = [step for step in made if step not in lived.done]
    if never:
        verdict.breaks("answered", f"{never[0]} was never answered", never[0])
    if lived.status_error:
        verdict.breaks("status", f"status raised {lived.status_error}", whole)
    if lived.status_seconds > _SOON_SECONDS:
        verdict.breaks("status", "a status took seconds", whole)
    for plugin_id, key in lived.lost[:1]:
        text = f"the key {clip(key, 120)!r} of {plugin_id} does not hold what the guest was told that it does"
        verdict.breaks("nothing-lost", text, whole)
    if lived.untidy:
        verdict.breaks("tidy", f"the round has left {lived.untidy}", whole)
