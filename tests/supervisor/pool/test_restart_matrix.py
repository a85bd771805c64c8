"""Exit reason by state of the budget, complete, in the manner of OTP's supervisor suites. Rules only; the same with
real processes is in tests/processes/test_exit_reasons.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isoplug.supervisor.pool import ExitReason, Loss, RestartBudget, RestartPolicy
from isoplug.supervisor.pool.policy import Quarantine, Restart, RestartDecision, Stay

POLICY = RestartPolicy(
    max_restarts=3,
    period_seconds=100.0,
    backoff_initial_seconds=1.0,
    backoff_max_seconds=8.0,
    backoff_jitter_seconds=0.0,
    healthy_after_seconds=60.0,
)
NOW = 1000.0

#: How many failures the record has, and how long the worker that ends now had lived and how many calls it had served.
STATES: dict[str, tuple[int, float, int]] = {
    "fresh": (0, 1.0, 1),
    "used": (1, 1.0, 1),
    "last one": (2, 1.0, 1),
    "exhausted": (3, 1.0, 1),
    "healthy": (3, 60.0, 1),
    "old, and never served": (3, 60.0, 0),
    "long in quarantine": (4, 1.0, 1),
}

AT_ONCE, LATER, LATEST, NO_MORE, STAY = Restart(0.0), Restart(1.0), Restart(2.0), Quarantine(), Stay()

#: A plugin's own fault: the n-th restart waits longer, and one too many is none.
FAULT = {
    "fresh": AT_ONCE,
    "used": LATER,
    "last one": LATEST,
    "exhausted": NO_MORE,
    "healthy": AT_ONCE,
    "old, and never served": NO_MORE,
    "long in quarantine": NO_MORE,
}
NOBODYS_FAULT = dict.fromkeys(STATES, AT_ONCE)

MATRIX: dict[ExitReason, dict[str, RestartDecision]] = {
    ExitReason.CRASH: FAULT,
    ExitReason.OUT_OF_MEMORY: FAULT,
    ExitReason.BREACH: FAULT,
    ExitReason.OVERRUN: FAULT,
    ExitReason.START_FAILED: FAULT,
    ExitReason.MACHINE: dict.fromkeys(STATES, LATER),  # it would only burden the machine more to try again at once
    ExitReason.SHORT_DEADLINE: NOBODYS_FAULT,
    ExitReason.TRAP: NOBODYS_FAULT,
    ExitReason.LIMIT: NOBODYS_FAULT,
    ExitReason.CANCELLED: NOBODYS_FAULT,
    ExitReason.RECYCLED: NOBODYS_FAULT,
    ExitReason.STOPPED: dict.fromkeys(STATES, STAY),
}


def budget_in(state: str) -> tuple[RestartBudget, Callable[[ExitReason], RestartDecision]]:
    failures, lived_seconds, calls = STATES[state]
    budget = RestartBudget(POLICY)
    for _ in range(failures):
        budget.on_exit(Loss(ExitReason.CRASH, "before"), NOW, lived_seconds=0.0, calls=0)

    def end(reason: ExitReason) -> RestartDecision:
        return budget.on_exit(Loss(reason, "now"), NOW + 1.0, lived_seconds=lived_seconds, calls=calls)

    return budget, end


def failures_left(budget: RestartBudget) -> int:
    """How many crashes it takes until the plugin is quarantined."""
    for number in range(1, POLICY.max_restarts + 2):
        decision = budget.on_exit(Loss(ExitReason.CRASH, "after"), NOW + 2.0, lived_seconds=0.0, calls=0)
        if isinstance(decision, Quarantine):
            return number
    raise AssertionError("the intensity is not kept")


def test_the_matrix_is_complete() -> None:
    assert set(MATRIX) == set(ExitReason)
    assert all(set(row) == set(STATES) for row in MATRIX.values())


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reason", ExitReason)
def test_what_follows_an_exit(reason: ExitReason, state: str) -> None:
    _, end = budget_in(state)
    assert end(reason) == MATRIX[reason][state]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("reason", ExitReason)
def test_only_a_plugins_own_fault_spends_its_budget(reason: ExitReason, state: str) -> None:
    untouched, _ = budget_in(state)
    budget, end = budget_in(state)
    end(reason)
    _, lived_seconds, calls = STATES[state]
    is_clean = lived_seconds >= POLICY.healthy_after_seconds and calls > 0
    if reason in (ExitReason.STOPPED, ExitReason.MACHINE) or not is_clean:
        assert failures_left(budget) == max(1, failures_left(untouched) - reason.counts)
    else:
        assert failures_left(budget) == POLICY.max_restarts + 1 - reason.counts


@pytest.mark.parametrize("reason", ExitReason)
def test_what_counts_is_what_the_plugin_did(reason: ExitReason) -> None:
    assert reason.counts == (MATRIX[reason] is FAULT)


def test_a_machine_that_has_no_room_is_asked_less_and_less_often_and_costs_the_plugin_nothing() -> None:
    budget = RestartBudget(POLICY)
    waits = [
        budget.on_exit(Loss(ExitReason.MACHINE, "no processes"), NOW + n, lived_seconds=0.0, calls=0) for n in range(50)
    ]
    assert waits == [Restart(min(8.0, 2.0**n)) for n in range(50)]
    assert failures_left(budget) == POLICY.max_restarts + 1


def test_a_machine_that_had_room_again_is_asked_soon_the_next_time() -> None:
    budget = RestartBudget(POLICY)
    for _ in range(5):
        budget.on_exit(Loss(ExitReason.MACHINE, "no processes"), NOW, lived_seconds=0.0, calls=0)
    budget.on_exit(Loss(ExitReason.TRAP, "it ran"), NOW, lived_seconds=1.0, calls=1)
    assert budget.on_exit(Loss(ExitReason.MACHINE, "again"), NOW, lived_seconds=0.0, calls=0) == Restart(1.0)


def test_deaths_by_an_input_that_is_set_aside_are_pardoned_and_no_others() -> None:
    budget = RestartBudget(POLICY)
    for fingerprint in ("poison", None, "poison"):
        budget.on_exit(Loss(ExitReason.CRASH, "x", fingerprint), NOW, lived_seconds=0.0, calls=0)
    budget.pardon("poison", NOW)
    assert failures_left(budget) == POLICY.max_restarts


def test_a_plugin_that_dies_of_ever_new_inputs_is_not_pardoned_for_ever() -> None:
    """Callers that repeat what failed have every input set aside at its second death."""
    budget = RestartBudget(POLICY)
    decisions = []
    for number in range(100):
        for _ in range(2):
            loss = Loss(ExitReason.CRASH, "x", str(number))
            decisions.append(budget.on_exit(loss, NOW, lived_seconds=0.0, calls=0))
        budget.pardon(str(number), NOW)
        if Quarantine() in decisions:
            break
    assert Quarantine() in decisions
    assert 10 <= number < 15
    later = NOW + POLICY.period_seconds + 1.0
    budget.on_exit(Loss(ExitReason.CRASH, "x", "later"), later, lived_seconds=0.0, calls=0)
    budget.pardon("later", later)
    assert isinstance(budget.on_exit(Loss(ExitReason.CRASH, "x"), later, lived_seconds=0.0, calls=0), Restart)
