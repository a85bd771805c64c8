"""What goes wrong between a worker and its supervisor: frames that are garbage, too large, doubled, missing, late; and
what a worker reports of its guest.

Bytes that a worker is to have sent go through the decoder that reads what workers send.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from isoplug.shared.errors import CallTimeout, GuestTrap, PluginError, WorkerCrashed
from isoplug.shared.messages import (
    PROTOCOL,
    Failed,
    FailureKind,
    FromWorker,
    Hello,
    HostCall,
    Invoke,
    Returned,
    encode,
)
from isoplug.shared.zmtp import framed
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.faults.base import CallFault, register
from isoplug.supervisor.chaos.faults.waits import (
    PATIENCE_SECONDS,
    fall_silent,
    pause,
    require_among,
    require_seconds,
)
from isoplug.supervisor.chaos.faults.wires import InsteadOfInvoke, OnHostCall, OnReply
from isoplug.supervisor.deadline import Deadline

__all__ = [
    "DuplicateFrame",
    "GarbageFrame",
    "GarbageToWorker",
    "LateFrame",
    "MissingFrame",
    "OversizeFrame",
    "StaleFrame",
    "Trap",
]

#: No frame begins like that, and no message is made of these bytes: 0xc1 is what msgpack never uses.
_NO_FRAME = bytes([0xFF, 0xFE, 0xFD, 0xFC]) * 16
_NO_MESSAGE = b"\xc1" * 64
#: Of a frame with a length of eight bytes: its flag, and a length that no limit allows.
_HUGE_FRAME = bytes([2]) + (1 << 62).to_bytes(8, "big") + b"x" * 64


@dataclass(frozen=True, slots=True)
class _InsteadOfReply(CallFault):
    """The worker sends something else in place of its reply, and breaks the protocol with it."""

    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = False

    @abstractmethod
    def sent(self, reply: Returned | Failed) -> bytes:
        """The worker's next bytes, where ``reply`` would come."""

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        link = delivery.worker.link

        def swap(reply: Returned | Failed, deadline: Deadline) -> FromWorker:
            link.feed(self.sent(reply))
            return link.receive(deadline)

        delivery.wire = OnReply(delivery.wire, swap)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class GarbageFrame(_InsteadOfReply):
    """The worker sends garbage in place of its reply, as when a guest has broken out into the worker, or its memory is
    damaged. ``of``: ``bytes`` that are no frame, a ``frame`` that holds no message, or a ``message`` that has no place
    there."""

    name: ClassVar[str] = "garbage-frame"

    of: Literal["bytes", "frame", "message"] = "frame"

    def __post_init__(self) -> None:
        require_among(self.name, "of", self.of, ("bytes", "frame", "message"))

    def sent(self, _: Returned | Failed) -> bytes:
        match self.of:
            case "bytes":
                return _NO_FRAME
            case "frame":
                return framed(_NO_MESSAGE)
            case "message":
                return framed(encode(Hello(PROTOCOL)))


@register
@dataclass(frozen=True, slots=True)
class OversizeFrame(_InsteadOfReply):
    """The worker announces a frame of four exabytes in place of its reply, to have the supervisor make room for it."""

    name: ClassVar[str] = "oversize-frame"

    def sent(self, _: Returned | Failed) -> bytes:
        return _HUGE_FRAME


@register
@dataclass(frozen=True, slots=True)
class DuplicateFrame(CallFault):
    """A frame arrives twice, as from a worker that repeats what it believes lost. ``of``: the ``reply``, which the
    caller gets, and the worker is replaced before it is asked again; or the first ``host-call``, which is served
    once."""

    name: ClassVar[str] = "duplicate-frame"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = True

    of: Literal["reply", "host-call"] = "reply"

    def __post_init__(self) -> None:
        require_among(self.name, "of", self.of, ("reply", "host-call"))

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        link = delivery.worker.link

        def double_reply(reply: Returned | Failed, _: Deadline) -> FromWorker:
            link.feed(framed(encode(reply)))
            return reply

        def double_host_call(call: HostCall) -> None:
            link.feed(framed(encode(call)))

        if self.of == "reply":
            delivery.wire = OnReply(delivery.wire, double_reply)
        else:
            delivery.wire = OnHostCall(delivery.wire, double_host_call)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class MissingFrame(CallFault):
    """The reply does not arrive, and no other: a worker that has done its work and then hangs. The call ends as at its
    deadline, after ``patience`` seconds."""

    name: ClassVar[str] = "missing-frame"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    may_answer: ClassVar[bool] = False

    patience: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        require_seconds(self.name, patience=self.patience)

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def lose(_: Returned | Failed, deadline: Deadline) -> FromWorker:
            fall_silent(self.patience, deadline)

        delivery.wire = OnReply(delivery.wire, lose)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class LateFrame(CallFault):
    """The reply arrives ``seconds`` late, as on a machine that is busy; too late for a call that has no more time than
    that."""

    name: ClassVar[str] = "late-frame"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    may_answer: ClassVar[bool] = True

    seconds: float = 0.02

    def __post_init__(self) -> None:
        require_seconds(self.name, seconds=self.seconds)

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def hold_back(reply: Returned | Failed, deadline: Deadline) -> FromWorker:
            pause(self.seconds, deadline)
            return reply

        delivery.wire = OnReply(delivery.wire, hold_back)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class StaleFrame(_InsteadOfReply):
    """The reply to the call before arrives in place of this one's: a worker that has lost count. Nobody may get another
    caller's answer."""

    name: ClassVar[str] = "stale-frame"

    def sent(self, reply: Returned | Failed) -> bytes:
        return framed(encode(Returned(reply.call - 1, b"the answer to another call")))


@register
@dataclass(frozen=True, slots=True)
class GarbageToWorker(CallFault):
    """The worker gets garbage in place of the call, as from a supervisor of another version after half an upgrade. It
    ends itself."""

    name: ClassVar[str] = "garbage-to-worker"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = False

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def send_garbage(_: Invoke, deadline: Deadline) -> None:
            delivery.worker.link.send_raw(framed(_NO_MESSAGE), deadline)

        delivery.wire = InsteadOfInvoke(delivery.wire, send_garbage)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class Trap(CallFault):
    """The guest traps when it has done its work: a failed assertion, a division by zero, a stack overflow. Its worker
    is replaced."""

    name: ClassVar[str] = "trap"
    ends: ClassVar[tuple[type[PluginError], ...]] = (GuestTrap,)
    may_answer: ClassVar[bool] = False

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def trap(reply: Returned | Failed, _: Deadline) -> FromWorker:
            return Failed(reply.call, FailureKind.TRAP, "wasm trap: wasm `unreachable` instruction executed (injected)")

        delivery.wire = OnReply(delivery.wire, trap)
        return proceed(delivery)
