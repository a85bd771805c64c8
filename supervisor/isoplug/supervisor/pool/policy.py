"""When a worker is started again, how long to wait before, and when to give up. Rules without I/O.

The intensity is OTP's: so many restarts in so many seconds, exits older than the period are forgotten. The first
restart waits for nothing, because most crashes are single; from the second on the wait doubles, with jitter so that
plugins that died together do not come back together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from tenacity import RetryCallState, wait_exponential, wait_random

from isoplug.shared.errors import CrashReason
from isoplug.supervisor import config
from isoplug.supervisor.pool.exit_status import ExitStatus

__all__ = [
    "ExitReason",
    "Loss",
    "Quarantine",
    "Restart",
    "RestartBudget",
    "RestartDecision",
    "RestartPolicy",
    "Stay",
]


#: Inputs whose deaths are pardoned in one period. A plugin that dies of more than these is at fault itself: callers
#: that repeat what failed would otherwise have each death set aside, and it would be started again without an end.
_MAX_PARDONS = 10


class ExitReason(StrEnum):
    """Why a worker is gone."""

    CRASH = "crash"  #: a signal or an exit that nobody asked for
    OUT_OF_MEMORY = "out_of_memory"
    BREACH = "breach"  #: destroyed, because it broke the protocol
    OVERRUN = "overrun"  #: killed at a deadline of at least the default timeout
    START_FAILED = "start_failed"
    MACHINE = "machine"  #: not started, for want of processes, descriptors or memory: not the plugin's fault
    SHORT_DEADLINE = "short_deadline"  #: killed at a deadline that its caller had set below the default
    TRAP = "trap"  #: the guest's own end, the process was fine
    LIMIT = "limit"  #: it came to a limit of its configuration, which has stopped it
    CANCELLED = "cancelled"  #: its caller gave up, or was interrupted
    RECYCLED = "recycled"  #: it had served long enough
    STOPPED = "stopped"  #: unloaded, drained, or the supervisor closes

    @property
    def counts(self) -> bool:
        """Whether it is the plugin's fault, and so spends its budget."""
        return self in _PLUGINS_FAULT


_PLUGINS_FAULT = frozenset(
    {
        ExitReason.CRASH,
        ExitReason.OUT_OF_MEMORY,
        ExitReason.BREACH,
        ExitReason.OVERRUN,
        ExitReason.START_FAILED,
    }
)


_OF_CRASHES = {CrashReason.OUT_OF_MEMORY: ExitReason.OUT_OF_MEMORY, CrashReason.CPU_TIME: ExitReason.LIMIT}


class Loss(NamedTuple):
    """The end of one worker. ``text`` says it in a few words, for the status; ``fingerprint`` names the input that it
    died of, when it died in a call."""

    reason: ExitReason
    text: str
    fingerprint: str | None = None

    @classmethod
    def of(cls, status: ExitStatus, when: str) -> Loss:
        """Of a process that died; ``when`` as in ``ExitStatus.describe``."""
        return cls(_OF_CRASHES.get(status.reason, ExitReason.CRASH), status.describe(when))


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """``max_restarts`` in ``period_seconds``; a worker that lived ``healthy_after_seconds`` and served a call starts
    with a clean record."""

    max_restarts: int
    period_seconds: float
    backoff_initial_seconds: float
    backoff_max_seconds: float
    backoff_jitter_seconds: float
    healthy_after_seconds: float

    @classmethod
    def of(cls, settings: config.Restart) -> RestartPolicy:
        """As configured; the defaults stand in ``config.Restart`` and nowhere else."""
        return cls(
            max_restarts=settings.max_restarts,
            period_seconds=settings.period,
            backoff_initial_seconds=settings.backoff_initial,
            backoff_max_seconds=settings.backoff_max,
            backoff_jitter_seconds=settings.backoff_jitter,
            healthy_after_seconds=settings.healthy_after,
        )


@dataclass(frozen=True, slots=True)
class Restart:
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """No more restarts until someone resets the plugin."""


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing is started: the worker was meant to end."""


RestartDecision: TypeAlias = Restart | Quarantine | Stay


class _Failure(NamedTuple):
    at: float
    fingerprint: str | None


class RestartBudget:
    """The record of one plugin. Not thread-safe: its pool's lock guards it."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[_Failure] = deque()
        self._pardons: dict[str, float] = {}  # fingerprint → when it was pardoned first, the oldest first
        self._refused_starts = 0  # in a row, by the machine
        self._backoff = wait_exponential(
            multiplier=policy.backoff_initial_seconds, max=policy.backoff_max_seconds
        ) + wait_random(0, policy.backoff_jitter_seconds)

    def on_exit(self, loss: Loss, now: float, *, lived_seconds: float, calls: int) -> RestartDecision:
        """A worker ended at ``now`` (monotonic seconds), having served ``calls`` to their end; or a start failed."""
        if loss.reason is ExitReason.STOPPED:
            return Stay()
        if loss.reason is ExitReason.MACHINE:  # costs nothing, but asking again at once would only burden it more
            self._refused_starts += 1
            return Restart(self._delay(self._refused_starts + 1))
        self._refused_starts = 0
        if calls and lived_seconds >= self._policy.healthy_after_seconds:
            self._failures.clear()
        if not loss.reason.counts:
            return Restart(0.0)
        while self._failures and now - self._failures[0].at > self._policy.period_seconds:
            self._failures.popleft()
        self._failures.append(_Failure(now, loss.fingerprint))
        if len(self._failures) > self._policy.max_restarts:
            return Quarantine()
        return Restart(self._delay(len(self._failures)))

    def pardon(self, fingerprint: str, now: float) -> None:
        """This input is set aside: the deaths that it caused were not the plugin's fault, unless it has too many such
        inputs."""
        for other in [other for other, at in self._pardons.items() if now - at > self._policy.period_seconds]:
            del self._pardons[other]
        if fingerprint not in self._pardons:
            if len(self._pardons) >= _MAX_PARDONS:
                return
            self._pardons[fingerprint] = now
        self._failures = deque(failure for failure in self._failures if failure.fingerprint != fingerprint)

    def clear(self) -> None:
        self._failures.clear()
        self._pardons.clear()

    def _delay(self, nth_restart: int) -> float:
        if nth_restart == 1:
            return 0.0
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = nth_restart - 1
        return self._backoff(state)
