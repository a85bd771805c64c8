"""What happens while a guest waits for its host: no answer, a late one, and the death of its worker."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar, Literal

from isoplug.shared.errors import CallTimeout, PluginError, WorkerCrashed
from isoplug.supervisor.calls.interceptor import Delivery, Serve
from isoplug.supervisor.chaos.faults.base import HostCallFault, register
from isoplug.supervisor.chaos.faults.signals import end_by
from isoplug.supervisor.chaos.faults.waits import (
    PATIENCE_SECONDS,
    fall_silent,
    pause,
    require_among,
    require_seconds,
)
from isoplug.supervisor.pool.link import Gone

__all__ = ["HostCallLate", "HostCallUnanswered", "KillInHostCall"]


@register
@dataclass(frozen=True, slots=True)
class KillInHostCall(HostCallFault):
    """The worker is killed while its guest waits for its host. ``moment``: ``before`` the host has done what it was
    asked for, which then is not done; or ``after`` it, when the guest has not heard of it yet."""

    name: ClassVar[str] = "kill-in-host-call"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = False

    moment: Literal["before", "after"] = "after"

    def __post_init__(self) -> None:
        require_among(self.name, "moment", self.moment, ("before", "after"))

    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        if self.moment == "after":
            serve(function, payload)
        end_by(delivery.worker, signal.SIGKILL)
        raise Gone


@register
@dataclass(frozen=True, slots=True)
class HostCallUnanswered(HostCallFault):
    """The host never answers, as when a service of its own hangs. ``moment``: ``before`` it has done what it was asked
    for, or ``after`` it. The call ends as at its deadline, after ``patience`` seconds."""

    name: ClassVar[str] = "host-call-unanswered"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    may_answer: ClassVar[bool] = False

    moment: Literal["before", "after"] = "before"
    patience: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        require_among(self.name, "moment", self.moment, ("before", "after"))
        require_seconds(self.name, patience=self.patience)

    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        if self.moment == "after":
            serve(function, payload)
        fall_silent(self.patience, delivery.deadline)


@register
@dataclass(frozen=True, slots=True)
class HostCallLate(HostCallFault):
    """The host answers ``seconds`` late, as on a machine that is busy; too late for a call that has no more time than
    that."""

    name: ClassVar[str] = "host-call-late"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    may_answer: ClassVar[bool] = True

    seconds: float = 0.02

    def __post_init__(self) -> None:
        require_seconds(self.name, seconds=self.seconds)

    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        answer = serve(function, payload)
        pause(self.seconds, delivery.deadline)
        return answer
