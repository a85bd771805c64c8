"""What faults put around a worker's link."""

from __future__ import annotations

from collections.abc import Callable

from isoplug.shared.messages import Failed, FromWorker, HostCall, Invoke, Returned, ToWorker
from isoplug.supervisor.calls.interceptor import Wire
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.link import Patience

__all__ = ["AfterInvoke", "AroundWire", "InsteadOfInvoke", "OnHostCall", "OnReply"]


class AroundWire:
    """Passes everything on; a base for wires that do not."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        self._wire.send(message, deadline)

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker:
        return self._wire.receive(deadline, patience)


class InsteadOfInvoke(AroundWire):
    """Does something in place of sending the call. ``act`` may raise what ``send`` may."""

    def __init__(self, wire: Wire, act: Callable[[Invoke, Deadline], None]) -> None:
        super().__init__(wire)
        self._act = act

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        if isinstance(message, Invoke):
            self._act(message, deadline)
        else:
            self._wire.send(message, deadline)


class AfterInvoke(AroundWire):
    """Does something when the call has been sent. ``act`` may raise what ``send`` may."""

    def __init__(self, wire: Wire, act: Callable[[], None]) -> None:
        super().__init__(wire)
        self._act = act

    def send(self, message: ToWorker, deadline: Deadline) -> None:
        self._wire.send(message, deadline)
        if isinstance(message, Invoke):
            self._act()


class OnReply(AroundWire):
    """Makes something else of the reply when it has come. ``act`` may raise what ``receive`` may."""

    def __init__(self, wire: Wire, act: Callable[[Returned | Failed, Deadline], FromWorker]) -> None:
        super().__init__(wire)
        self._act = act

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker:
        message = self._wire.receive(deadline, patience)
        return self._act(message, deadline) if isinstance(message, Returned | Failed) else message


class OnHostCall(AroundWire):
    """Does something when the first host call has come. ``act`` may raise what ``receive`` may."""

    def __init__(self, wire: Wire, act: Callable[[HostCall], None]) -> None:
        super().__init__(wire)
        self._act: Callable[[HostCall], None] | None = act

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker:
        message = self._wire.receive(deadline, patience)
        if isinstance(message, HostCall) and self._act is not None:
            act, self._act = self._act, None
            act(message)
        return message
