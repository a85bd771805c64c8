"""Candidates take turns."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from isoplug.supervisor.bench import blocks
from isoplug.supervisor.bench.blocks import Block, Candidate, interleaved, once, timed
from isoplug.supervisor.bench.figures import Unit


def noting(name: str, notes: list[str], samples: list[float]) -> Block:
    def block(seconds: float) -> list[float]:
        assert seconds == 0.5
        notes.append(name)
        return samples

    return block


def test_every_block_begins_with_another_candidate_and_the_first_one_only_warms_up() -> None:
    notes: list[str] = []
    shares: list[float] = []
    candidates = [Candidate(name, noting(name, notes, [1.0, 3.0]), Unit.BYTES) for name in "abc"]
    figures = interleaved("files", candidates, 4, 0.5, shares.append)
    assert "".join(notes) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert shares == [0, 0.25, 0.5, 0.75]
    assert [(one.section, one.name, one.unit, one.samples, one.p50) for one in figures] == [
        ("files", name, "bytes", 8, 2.0) for name in "abc"
    ]


def test_a_slow_candidate_takes_part_in_few_blocks() -> None:
    notes: list[str] = []
    slow, quick = (Candidate(name, noting(name, notes, [1.0]), every=every) for name, every in (("s", 3), ("q", 1)))
    by_name = {one.name: one for one in interleaved("starts", [slow, quick], 4, 0.5, lambda share: None)}
    assert (by_name["s"].samples, by_name["q"].samples) == (2, 4)


def test_a_block_ends_when_its_time_is_over_and_has_at_least_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a second later at each look
    monkeypatch.setattr(blocks, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    calls: list[int] = []
    assert timed(lambda: calls.append(1))(0.0) == [1.0]
    assert timed(lambda: calls.append(1))(5.0) == [1.0] * 3
    assert len(calls) == 4
    assert once(lambda: 7.0)(0.0) == [7.0]


def test_what_a_candidate_raises_ends_the_measurement() -> None:
    def fails() -> None:
        raise ConnectionError("the other end is gone")

    with pytest.raises(ConnectionError):
        interleaved("calls", [Candidate("a", timed(fails))], 1, 0.0, lambda share: None)
