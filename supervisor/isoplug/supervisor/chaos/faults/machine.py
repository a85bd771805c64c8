"""What the machine does: its clock jumps, it has no descriptors left, its disk is full."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from isoplug.shared.errors import CommandError, GuestTrap, InvalidArgument, PluginError
from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor import wall_clock
from isoplug.supervisor.calls.interceptor import Delivery, Proceed, Serve
from isoplug.supervisor.chaos.faults.base import CallFault, HostCallFault, register
from isoplug.supervisor.chaos.faults.scarcity import without_descriptors
from isoplug.supervisor.chaos.faults.services import DISK_SERVICES, SERVICE_OF, no_room, with_door

__all__ = ["ClockJump", "DescriptorsExhausted", "DiskFull"]

#: A century, after which dates may leave what calendars can express.
_MOST_JUMP_SECONDS = 100 * 365 * 86_400
#: Their host functions open something each time.
_OPENING = ("filesystem", "http", "wasi")


@register
@dataclass(frozen=True, slots=True)
class ClockJump(CallFault):
    """The clock on the wall is set for the length of the call, as by NTP, or by a person: ``seconds`` forward, or back
    when negative. Guests see it; deadlines, which go by the monotonic clock, do not."""

    name: ClassVar[str] = "clock-jump"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CommandError, GuestTrap)
    may_answer: ClassVar[bool] = True
    is_told: ClassVar[bool] = True

    seconds: float = -3600.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not is_number or not abs(self.seconds) <= _MOST_JUMP_SECONDS:
            raise InvalidArgument(
                f"fault {self.name!r}: seconds is a number of at most {_MOST_JUMP_SECONDS}, not {self.seconds!r}"
            )

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        with wall_clock.jumped(self.seconds):
            return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class DiskFull(CallFault):
    """The disk is full for the length of the call (``ENOSPC``): storage, secrets, namespaces and workspace take nothing
    more; reading and deleting go on."""

    name: ClassVar[str] = "disk-full"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CommandError, GuestTrap)
    may_answer: ClassVar[bool] = True
    is_told: ClassVar[bool] = True

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        for field in DISK_SERVICES:
            delivery.services = with_door(delivery.services, field, partial(no_room, delivery))
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class DescriptorsExhausted(HostCallFault):
    """The host's process can open nothing more (``EMFILE``) while it serves a host call that opens files or
    connections: ``ulimit -n`` is reached, as by a host that leaks them.

    The limit is the process's, so it holds for all its threads, for a millisecond. With several callers another one
    may give a descriptor back meanwhile, which the host call then gets.
    """

    name: ClassVar[str] = "descriptors-exhausted"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CommandError, GuestTrap)
    may_answer: ClassVar[bool] = True
    is_told: ClassVar[bool] = True
    is_global: ClassVar[bool] = True

    def concerns(self, function: str) -> bool:
        return SERVICE_OF.get(function) in _OPENING

    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        with without_descriptors():
            return serve(function, payload)
