"""Restart intensity, backoff and quarantine, with the time as an argument."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor import config
from isoplug.supervisor.pool import ExitReason, Loss, RestartBudget, RestartPolicy
from isoplug.supervisor.pool.policy import Quarantine, Restart, RestartDecision


def policy_with(**changes: Any) -> RestartPolicy:
    """The default policy, changed."""
    return replace(RestartPolicy.of(config.Restart()), **changes)


def fail(budget: RestartBudget, now: float, *, lived_seconds: float = 0.0, calls: int = 0) -> RestartDecision:
    return budget.on_exit(Loss(ExitReason.CRASH, "killed"), now, lived_seconds=lived_seconds, calls=calls)


def delays(policy: RestartPolicy, failures: int) -> list[float]:
    budget = RestartBudget(policy)
    answers = [fail(budget, float(second)) for second in range(failures)]
    assert all(isinstance(answer, Restart) for answer in answers)
    return [answer.delay_seconds for answer in answers if isinstance(answer, Restart)]


@pytest.mark.parametrize("max_restarts", [0, 1, 3, 10])
def test_one_failure_more_than_the_intensity_quarantines(max_restarts: int) -> None:
    budget = RestartBudget(policy_with(max_restarts=max_restarts))
    decisions = [fail(budget, float(n)) for n in range(max_restarts + 1)]
    assert [type(decision) for decision in decisions] == [Restart] * max_restarts + [Quarantine]


def test_failures_older_than_the_period_are_forgotten() -> None:
    budget = RestartBudget(policy_with(max_restarts=2, period_seconds=10.0))
    assert isinstance(fail(budget, 0.0), Restart)
    assert isinstance(fail(budget, 1.0), Restart)
    assert isinstance(fail(budget, 10.5), Restart)  # the one at 0 no longer counts
    assert isinstance(fail(budget, 10.9), Quarantine)


def test_a_failure_exactly_one_period_old_still_counts() -> None:
    budget = RestartBudget(policy_with(max_restarts=1, period_seconds=10.0))
    assert isinstance(fail(budget, 0.0), Restart)
    assert isinstance(fail(budget, 10.0), Quarantine)


def test_slow_failures_never_quarantine() -> None:
    budget = RestartBudget(policy_with(max_restarts=1, period_seconds=10.0))
    assert all(isinstance(fail(budget, 11.0 * n), Restart) for n in range(100))


def test_the_first_restart_waits_for_nothing_and_then_the_wait_doubles() -> None:
    policy = policy_with(
        max_restarts=6, backoff_initial_seconds=0.5, backoff_max_seconds=100.0, backoff_jitter_seconds=0.0
    )
    assert delays(policy, 6) == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])


def test_the_wait_is_capped() -> None:
    policy = policy_with(
        max_restarts=2000, backoff_initial_seconds=0.5, backoff_max_seconds=3.0, backoff_jitter_seconds=0.0
    )
    assert delays(policy, 6) == pytest.approx([0.0, 0.5, 1.0, 2.0, 3.0, 3.0])
    budget = RestartBudget(policy)
    for _ in range(1999):  # 2 to the power of that is no float
        last = fail(budget, 0.0)
    assert last == Restart(3.0)


@given(st.floats(0.001, 10.0), st.floats(0.0, 5.0), st.integers(2, 8))
def test_jitter_is_added_and_bounded(initial: float, jitter: float, nth: int) -> None:
    policy = policy_with(
        max_restarts=10, backoff_initial_seconds=initial, backoff_max_seconds=1e6, backoff_jitter_seconds=jitter
    )
    exact = initial * 2 ** (nth - 2)
    assert exact * 0.999 <= delays(policy, nth)[-1] <= (exact + jitter) * 1.001


def test_plugins_that_die_together_do_not_come_back_together() -> None:
    policy = policy_with(max_restarts=3, backoff_jitter_seconds=1.0)
    assert len({delays(policy, 2)[-1] for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("lived_seconds", "calls", "is_clean"),
    [(60.0, 1, True), (1000.0, 7, True), (59.9, 100, False), (1000.0, 0, False), (0.0, 0, False)],
)
def test_only_a_worker_that_lived_long_and_served_a_call_clears_the_record(
    lived_seconds: float, calls: int, is_clean: bool
) -> None:
    budget = RestartBudget(policy_with(max_restarts=3, healthy_after_seconds=60.0, period_seconds=1e6))
    fail(budget, 0.0)
    fail(budget, 1.0)
    decision = fail(budget, 2.0, lived_seconds=lived_seconds, calls=calls)
    assert isinstance(decision, Restart)
    assert (decision.delay_seconds == 0.0) is is_clean


def test_a_cleared_budget_starts_afresh() -> None:
    budget = RestartBudget(policy_with(max_restarts=1))
    fail(budget, 0.0)
    assert isinstance(fail(budget, 0.0), Quarantine)
    budget.clear()
    assert fail(budget, 0.0) == Restart(0.0)


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(0, 5), st.integers(1, 50))
def test_no_period_sees_more_restarts_than_the_intensity(
    gaps: list[int], max_restarts: int, period_seconds: int
) -> None:
    budget = RestartBudget(policy_with(max_restarts=max_restarts, period_seconds=period_seconds))
    now, restarts = 0, []
    for gap in gaps:
        now += gap
        if isinstance(fail(budget, float(now)), Quarantine):
            break
        restarts.append(now)
    for start in restarts:
        assert sum(start <= instant <= start + period_seconds for instant in restarts) <= max_restarts
    assert all(earlier <= later for earlier, later in pairwise(restarts))
