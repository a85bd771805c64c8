"""Text with units, as properties."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.supervisor.config import parse_duration, parse_size, parse_version

numbers = st.integers(min_value=0, max_value=10**9)


@settings(deadline=None)
@given(numbers, st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]))
def test_a_whole_duration_is_exact(number: int, unit: tuple[str, int]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1] / 1000


@settings(deadline=None)
@given(
    numbers,
    st.sampled_from([("B", 1), ("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("KiB", 2**10), ("GiB", 2**30)]),
)
def test_a_whole_size_is_exact_and_units_may_be_in_any_case(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]
    assert parse_size(f"{number} {unit[0].lower()}") == number * unit[1]


@pytest.mark.parametrize("text", ["1.5h", "90m", "5400s", "5400000ms"])
def test_the_same_duration_can_be_written_in_several_units(text: str) -> None:
    assert parse_duration(text) == 5400.0


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error_and_nothing_else(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "+1s", "1e3s", "\u0661s", "nan s", "inf", "1 2s", "1s\0", "0x10s", "1" * 16 + "s"],
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|number"):
        parse_duration(text)


def test_a_number_without_unit_is_answered_with_what_to_write() -> None:
    with pytest.raises(ValueError, match='write "30s"'):
        parse_duration("30")
    with pytest.raises(ValueError, match='write "64KiB"'):
        parse_size("64")


def test_an_ambiguous_or_fractional_size_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown unit 'M'"):
        parse_size("64M")
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("1.3B")
    assert parse_size("1.5KiB") == 1536


@settings(deadline=None)
@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
def test_versions_compare_as_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (parse_version(f"{min(v[0], 999999999)}.{min(v[1], 999999999)}") for v in (one, other))
    assert first is not None
    assert second is not None
    assert (first < second) == ((*one, 0) < (*other, 0)) or 10**9 in (*one, *other)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.", "1.2.", "1.2.3.4", "v1.2", "1.2-beta", "1.2.x", " 1.2", "1.2\n", "\u0661.\u0662", "-1.2"],
)
def test_what_is_not_a_version_is_none(text: str) -> None:
    assert parse_version(text) is None


def test_a_missing_patch_is_zero() -> None:
    assert parse_version("1.4") == parse_version("1.4.0") == (1, 4, 0)
