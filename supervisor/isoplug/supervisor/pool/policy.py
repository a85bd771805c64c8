"""When a worker is started again, how long to wait before, and when to give up. Rules without I/O.

The intensity is OTP's: so many restarts in so many seconds, exits older than the period are forgotten. The first
restart waits for nothing, because most crashes are single; from the second on the wait doubles, with jitter so that
plugins that died together do not come back together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from tenacity import RetryCallState, wait_exponential, wait_random

from isoplug.supervisor import config

__all__ = ["Quarantine", "Restart", "RestartBudget", "RestartDecision", "RestartPolicy"]


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


RestartDecision: TypeAlias = Restart | Quarantine


class RestartBudget:
    """The record of one plugin. Not thread-safe: its pool's lock guards it."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()
        self._backoff = wait_exponential(
            multiplier=policy.backoff_initial_seconds, max=policy.backoff_max_seconds
        ) + wait_random(0, policy.backoff_jitter_seconds)

    def on_failure(self, now: float, *, lived_seconds: float, calls: int) -> RestartDecision:
        """A worker ended by its own fault at ``now`` (monotonic seconds), having served ``calls``."""
        if calls and lived_seconds >= self._policy.healthy_after_seconds:
            self._failures.clear()
        while self._failures and now - self._failures[0] > self._policy.period_seconds:
            self._failures.popleft()
        self._failures.append(now)
        if len(self._failures) > self._policy.max_restarts:
            return Quarantine()
        return Restart(self._delay(len(self._failures)))

    def clear(self) -> None:
        self._failures.clear()

    def _delay(self, nth_restart: int) -> float:
        if nth_restart == 1:
            return 0.0
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = nth_restart - 1
        return self._backoff(state)
