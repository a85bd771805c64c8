"""What is made of figures. Pure: no clock, no process."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.bench.figures import Figure, Unit, figure_of, shown
from isoplug.supervisor.bench.goals import GOALS, Added, At, Goal, Least, Sum, Verdict, judge, judge_all
from isoplug.supervisor.bench.names import Name


def figures(**values: float) -> dict[str, Figure]:
    return {Name[key]: figure_of("calls", Name[key], Unit.SECONDS, [value]) for key, value in values.items()}


def goal(over: Sum | Least | Added, under: Sum | Least | Added | None = None) -> Goal:
    return Goal("name", "meaning", over, 1.0, under)


# --- percentiles ------------------------------------------------------------------------------------------------------


def test_percentiles_lie_between_the_nearest_samples() -> None:
    figure = figure_of("calls", "x", Unit.SECONDS, [float(number) for number in range(101, 0, -1)])
    assert (figure.least, figure.p10, figure.p50, figure.p90, figure.p99, figure.most) == (1, 11, 51, 91, 100, 101)
    assert figure.samples == 101
    assert figure_of("calls", "x", Unit.SECONDS, [1.0, 2.0]).p50 == 1.5


def test_one_sample_is_every_percentile_and_none_are_refused() -> None:
    figure = figure_of("calls", "x", Unit.SECONDS, [3.0])
    assert {figure.least, figure.p10, figure.p50, figure.p90, figure.p99, figure.most} == {3.0}
    with pytest.raises(ValueError, match="x: no samples"):
        figure_of("calls", "x", Unit.SECONDS, [])


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_percentiles_rise(samples: list[float]) -> None:
    figure = figure_of("calls", "x", Unit.SECONDS, samples)
    rising = [figure.least, figure.p10, figure.p50, figure.p90, figure.p99, figure.most]
    assert rising == sorted(rising)
    assert (rising[0], rising[-1]) == (min(samples), max(samples))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.000_123_4, Unit.SECONDS, "123 µs"),
        (0.012_34, Unit.SECONDS, "12.3 ms"),
        (1.234, Unit.SECONDS, "1.23 s"),
        (-0.012_34, Unit.SECONDS, "-12.3 ms"),
        (0.0, Unit.SECONDS, "0.00 µs"),
        (12_345.6, Unit.PER_SECOND, "12,346 /s"),
        (3_300_000, Unit.BYTES, "3.30 MB"),
        (0.016, Unit.CORES, "1.60 %"),
    ],
)
def test_values_are_shown_with_three_digits_and_a_unit_that_suits_them(value: float, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text


# --- goals ------------------------------------------------------------------------------------------------------------


def test_a_sum_needs_all_its_parts_and_the_best_only_one() -> None:
    known = figures(PAIR=3.0, IN_PROCESS=1.0, CALL=8.0)
    assert judge(goal(Sum((Name.CALL,)), Sum((Name.PAIR, Name.IN_PROCESS))), known) == 2.0
    assert judge(goal(Sum((Name.CALL,)), Sum((Name.PAIR, Name.LOKY))), known) is None
    assert judge(goal(Sum((Name.CALL,)), Least((Name.PAIR, Name.LOKY))), known) == pytest.approx(8 / 3)
    assert judge(goal(Sum((Name.CALL,)), Least((Name.PEBBLE, Name.LOKY))), known) is None


def test_what_each_step_adds_is_the_difference_by_their_number() -> None:
    known = figures(CALL=2.0, CALL_TEN=22.0, PAIR=4.0)
    assert judge(goal(Added(Name.CALL, Name.CALL_TEN, 10), Sum((Name.PAIR,))), known) == 0.5
    assert judge(goal(Added(Name.CALL, Name.CALL_TEN, 10), Sum((Name.LOKY,))), known) is None
    assert judge(goal(Added(Name.RECOVERY, Name.CALL_TEN, 10)), known) is None


def test_a_goal_may_be_about_a_percentile_and_nothing_is_divided_by_zero() -> None:
    known = {Name.RECOVERY: figure_of("recovery", Name.RECOVERY, Unit.SECONDS, [float(n) for n in range(101)])}
    assert judge(goal(Sum((Name.RECOVERY,))), known) == 50
    assert judge(goal(Sum((Name.RECOVERY,), At.P99)), known) == 99
    assert judge(goal(Sum((Name.CALL,)), Sum((Name.PAIR,))), figures(CALL=1.0, PAIR=0.0)) is None


def test_the_99th_percentile_of_a_handful_is_no_verdict() -> None:
    known = {Name.RECOVERY: figure_of("recovery", Name.RECOVERY, Unit.SECONDS, [1.0] * 99)}
    assert judge(goal(Sum((Name.RECOVERY,))), known) == 1.0
    assert judge(goal(Sum((Name.RECOVERY,), At.P99)), known) is None


@pytest.mark.parametrize(
    ("value", "is_floor", "is_met", "is_far_off"),
    [
        (None, False, None, False),
        (1.0, False, True, False),
        (1.5, False, False, False),
        (2.0, False, False, False),
        (2.1, False, False, True),
        (1.0, True, True, False),
        (0.6, True, False, False),
        (0.5, True, False, False),
        (0.4, True, False, True),
    ],
)
def test_a_goal_is_missed_beyond_its_bound_and_far_off_beyond_twice(
    value: float | None, is_floor: bool, is_met: bool | None, is_far_off: bool
) -> None:
    verdict = Verdict(dataclasses.replace(goal(Sum((Name.CALL,))), is_floor=is_floor), value)
    assert (verdict.is_met, verdict.is_far_off) == (is_met, is_far_off)


def test_without_figures_there_is_a_verdict_on_each_goal_and_it_is_none() -> None:
    verdicts = judge_all([])
    assert [verdict.goal for verdict in verdicts] == list(GOALS)
    assert all(verdict.value is None and not verdict.is_far_off for verdict in verdicts)


def test_goals_have_names_of_their_own_and_a_unit_where_they_are_no_ratio() -> None:
    assert len({one.name for one in GOALS}) == len(GOALS)
    assert all((one.unit is None) == (one.under is not None) for one in GOALS)
    assert all(one.meaning and one.bound > 0 for one in GOALS)
