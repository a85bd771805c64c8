"""What a run measures, and how often."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from isoplug.supervisor.bench.figures import Figure, Unit, figure_of
from isoplug.supervisor.bench.lab import Lab, Pace, Section
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.bench.run import Settings, run


def section(name: str, *factors: float) -> Section:
    """Whose throughput of four callers is so many times that of one, at each of its turns."""
    left = list(factors)

    def measure(lab: Lab) -> Sequence[Figure]:
        rates = {Name.ONE_CALLER: 1000.0, Name.FOUR_CALLERS: 1000.0 * left.pop(0)}
        return [figure_of(lab.section, one, Unit.PER_SECOND, [rate]) for one, rate in rates.items()]

    return Section(name, "throughput", measure)


@pytest.mark.parametrize(
    ("factors", "again"),
    [((2.5,), []), ((1.0, 2.5), ["it"]), ((1.0, 1.0, 2.0), ["it", "it"]), ((1.0,) * 3, ["it"] * 2)],
)
def test_what_is_far_off_is_measured_again_and_the_last_turn_counts(
    factors: tuple[float, ...], again: list[str]
) -> None:
    report = run(Settings((section("it", *factors),), Pace(again=2)))
    assert report.options["measured_again"] == again
    (verdict,) = [one for one in report.verdicts if one.value is not None]
    assert verdict.value == pytest.approx(factors[-1])


def test_nothing_is_measured_again_that_is_merely_missed_or_when_nobody_wants_it() -> None:
    for pace, factor in ((Pace(again=2), 1.5), (Pace(), 1.0)):
        report = run(Settings((section("it", factor),), pace))
        assert report.options["measured_again"] == []


def test_only_the_section_that_is_far_off_has_another_turn() -> None:
    other = dataclasses.replace(section("other"), measure=lambda lab: [])
    heard: list[tuple[str, float]] = []
    settings = Settings((section("it", 1.0, 2.5), other), Pace(again=1))
    run(settings, lambda name, share: heard.append((name, share)))
    assert [name for name, _ in heard] == ["the machine", "it", "other", "it"]
    assert all(0.0 <= share <= 1.0 for _, share in heard)
