"""What faults put around a worker's link."""

from __future__ import annotations

from collections.abc import Callable

from isoplug.shared.messages import FromWorker, ToWorker
from isoplug.supervisor.calls.interceptor import Wire
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.link import Patience

__all__ = ["AfterInvoke", "AroundWire"]


class AroundWire:
    """Passes everything on; a base for wires that do not."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        self._wire.send(message, deadline)

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker:
        return self._wire.receive(deadline, patience)


class AfterInvoke(AroundWire):
    """Does something once, when the call has been sent."""

    def __init__(self, wire: Wire, act: Callable[[], None]) -> None:
        super().__init__(wire)
        self._act: Callable[[], None] | None = act

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        self._wire.send(message, deadline)
        if self._act is not None:
            act, self._act = self._act, None
            act()
