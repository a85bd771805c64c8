"""What the pictures of a report show. (No browser: these are the rules.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from isoplug.supervisor.chaos import CallEntry, Ending, FaultRow, Plan, Report, Restart, Step
from isoplug.supervisor.chaos.timeline import bands_of, scale_of, seconds_text, timeline_of
from reports import report


def call(caller: str, number: int, began: float, ending: Ending = Ending.ANSWERED) -> CallEntry:
    return CallEntry(Step(1, caller, number), "a.b", "a.b:c", ending, "", (), 1, began, 0.01)


def of_calls(*calls: CallEntry, seconds: float = 10.0) -> Report:
    return Report(Plan(), 1, calls, (), (), (), "", seconds=seconds)


def test_a_short_run_has_a_mark_for_each_call_fault_and_restart() -> None:
    run = report(200)
    timeline = timeline_of(run)
    assert timeline.bin_seconds == 0
    assert [lane.name for lane in timeline.lanes] == ["caller 1", "caller 2", "caller 3", "caller 4", "restarts"]
    assert sum(len(lane.calls) for lane in timeline.lanes) == 200
    assert sum(len(lane.above) for lane in timeline.lanes[:-1]) == len(run.injections)
    assert len(timeline.lanes[-1].above) == len(run.restarts)


def test_a_long_run_has_counts_and_their_number_is_bounded() -> None:
    timeline = timeline_of(report(100_000, seconds=300))
    assert timeline.bin_seconds > 0
    assert sum(len(lane.calls) + len(lane.above) for lane in timeline.lanes) < 6_000
    assert "answered" in timeline.lanes[0].calls[0].text


def test_one_wrong_call_among_thousands_is_seen() -> None:
    calls = [call("a", number, 10 * number / 5_000) for number in range(5_000)]
    calls[2_500] = replace(calls[2_500], ending=Ending.WRONG)
    marks = timeline_of(of_calls(*calls)).lanes[0].calls
    (wrong,) = [mark for mark in marks if mark.kind == "wrong"]
    assert wrong.height >= 0.2
    assert 0 <= wrong.base <= wrong.base + wrong.height <= 1
    assert wrong.begin == pytest.approx(0.5, abs=0.01)


def test_many_callers_share_the_last_lane() -> None:
    names = [lane.name for lane in timeline_of(report(1_000, callers=200)).lanes]
    assert len(names) <= 26
    assert names[:2] == ["caller 1", "caller 2"]
    assert names[9] == "caller 10"
    assert names[-2:] == ["other callers", "restarts"]


def test_marks_stay_inside_even_when_something_came_after_the_end() -> None:
    run = replace(of_calls(call("", 1, 11.0)), restarts=(Restart("a.b", 12.0),))
    lanes = timeline_of(run).lanes
    assert [lane.name for lane in lanes] == ["calls", "restarts"]
    assert all(0 <= mark.begin <= mark.end <= 1 for lane in lanes for mark in (*lane.calls, *lane.above))


def test_a_report_without_anything_has_a_timeline() -> None:
    assert timeline_of(of_calls(seconds=0)).lanes == ()


def test_recovery_times_lie_on_a_logarithmic_axis_of_whole_powers_of_ten() -> None:
    row = FaultRow("kill", 3, 3, 0, 0, 0, (0.02, 0.02, 0.5))
    run = replace(of_calls(), faults=(row, FaultRow("oom", 0, 0, 0, 0, 0)))
    assert scale_of(run) == pytest.approx((0.01, 0.1, 1.0))
    (band,) = bands_of(run)
    assert band.name == "kill"
    assert [mark.text for mark in band.marks] == ["2 times", "1 times"]
    assert band.median == pytest.approx(0.1505, abs=0.001)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.0, 0.001, 3600.0])
def test_any_recovery_time_has_a_place(seconds: float) -> None:
    run = replace(of_calls(), faults=(FaultRow("kill", 1, 1, 0, 0, 0, (seconds,)),))
    (band,) = bands_of(run)
    assert 0 <= band.median <= 1
    assert len(scale_of(run)) >= 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.5, "500 ms"), (1.234, "1.2 s"), (75.4, "75 s")],
)
def test_seconds_have_a_unit_that_fits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
