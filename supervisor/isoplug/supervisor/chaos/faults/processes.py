"""What happens to the processes: workers killed, stopped, crashed; zygote and template gone."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar, Literal

from isoplug.shared.errors import InvalidArgument, PluginError, WorkerCrashed
from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.faults.base import CallFault, register
from isoplug.supervisor.chaos.faults.signals import end_by, send
from isoplug.supervisor.chaos.faults.wires import AfterInvoke

__all__ = ["Kill"]

#: Of an input. A larger one may not fit into the buffer of the socket of a worker that is stopped.
_SMALL_BYTES = 32 * 1024


@register
@dataclass(frozen=True, slots=True)
class Kill(CallFault):
    """The worker is killed by SIGKILL, as by the kernel when memory runs out, or by a person with ``kill -9``.

    ``moment``: ``before`` the call is sent; after its ``delivery``, while the worker has not begun with it; after its
    ``reply`` has arrived, which the caller then gets.
    """

    name: ClassVar[str] = "kill"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = True

    moment: Literal["before", "delivery", "reply"] = "delivery"

    def __post_init__(self) -> None:
        if self.moment not in ("before", "delivery", "reply"):
            raise InvalidArgument(f"the moment of a kill is before, delivery or reply, not {self.moment!r}")

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        worker = delivery.worker
        if self.moment == "reply":
            outcome = proceed(delivery)
            end_by(worker, signal.SIGKILL)
            return outcome
        if self.moment == "before":
            end_by(worker, signal.SIGKILL)
        else:
            if len(delivery.data) <= _SMALL_BYTES:
                send(worker, signal.SIGSTOP)  # or it might have answered when the signal comes
            delivery.wire = AfterInvoke(delivery.wire, lambda: end_by(worker, signal.SIGKILL))
        return proceed(delivery)
