"""Making a call again, when that cannot do anything twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from isoplug.shared.errors import PluginError
from isoplug.shared.record import Outcome
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain

__all__ = ["repeated"]

_T = TypeVar("_T")

#: A worker's restart has a back-off of its own, and a waiting call is first in its queue, so these are short.
_WAIT = wait_exponential(multiplier=0.05, max=1.0) + wait_random(0.0, 0.05)


def repeated(attempt: Callable[[], _T], chain: Chain, deadline: Deadline, retries: int) -> _T:
    """``attempt()``, made again at most ``retries`` times: after errors that are transient, as long as nothing was
    changed, and never when the wait would pass the deadline. A chain that is cancelled waits no longer; its next
    attempt says so."""
    policy = Retrying(
        retry=retry_if_exception(partial(_may_repeat, chain)),
        stop=partial(_is_enough, retries, deadline),
        wait=_WAIT,
        sleep=chain.pause,
        reraise=True,
    )
    return policy(attempt)


def _may_repeat(chain: Chain, error: BaseException) -> bool:
    return isinstance(error, PluginError) and error.is_transient and chain.record.outcome is not Outcome.EFFECTS


def _is_enough(retries: int, deadline: Deadline, state: RetryCallState) -> bool:
    return state.attempt_number > retries or state.upcoming_sleep >= deadline.remaining_seconds()
