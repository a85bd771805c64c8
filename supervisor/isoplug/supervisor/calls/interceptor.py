"""A seam in every call: what stands between the runner and a worker.

Fault injection (``isoplug.supervisor.chaos``) and recording (``isoplug.supervisor.recording``) are interceptors, as
gRPC calls them. Without any, a call pays for one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from isoplug.shared.messages import Failed, FromWorker, Returned, ToWorker
from isoplug.shared.record import CallRecord
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.host import Services
from isoplug.supervisor.pool import Worker
from isoplug.supervisor.pool.link import Patience

__all__ = ["Delivery", "Interceptor", "Proceed", "Serve", "Wire"]

#: Answers one host call: ``serve(function, payload)``. Raises Silence, Gone, Breach, Exceeded, GuestAbort.
Serve: TypeAlias = Callable[[str, bytes], bytes]


class Wire(Protocol):
    """What messages to and from a worker go through: a ``Link``, or what stands around one. See there for errors."""

    def send(self, message: ToWorker, deadline: Deadline) -> None: ...

    def receive(self, deadline: Deadline, patience: Patience | None = None) -> FromWorker: ...


@dataclass(slots=True)
class Delivery:
    """One call on its way into one worker.

    An interceptor may put others in the place of the last three fields before it goes on: ``wire`` carries the
    messages, ``serve`` answers the host calls, each with the ``services`` of that moment.
    ``is_lent`` is False for what a worker is told before its pool has it and after it has left: ``manifest``,
    ``set_config``, ``init``, ``shutdown``. ``depth`` is 0 for a call from outside.
    """

    plugin_id: str
    export: str
    data: bytes
    worker: Worker
    is_lent: bool
    depth: int
    deadline: Deadline
    record: CallRecord
    wire: Wire
    services: Services
    serve: Serve


#: Goes on with a delivery, through the other interceptors. Raises Silence, Gone, Breach, Exceeded, GuestAbort.
Proceed: TypeAlias = Callable[[Delivery], Returned | Failed]


class Interceptor(Protocol):
    """Thread-safe: calls run in their callers' threads, nested ones within the outer one's ``intercept``."""

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """``proceed(delivery)``, with whatever comes before, instead and after. Raises what ``proceed`` may raise; each
        of them costs the worker its life."""
        ...
