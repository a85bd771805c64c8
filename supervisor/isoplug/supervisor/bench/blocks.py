"""Interleaved blocks: candidates take turns, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from isoplug.supervisor.bench.figures import Figure, Unit, figure_of

__all__ = ["Block", "Candidate", "interleaved", "once", "timed"]

#: Measures for so many seconds, at least once; the samples.
Block: TypeAlias = Callable[[float], list[float]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing to measure. It takes part in each ``every``-th block, from the first one on."""

    name: str
    block: Block
    unit: Unit = Unit.SECONDS
    every: int = 1


def timed(call: Callable[[], Any], parts: int = 1) -> Block:
    """How long a call takes, in seconds; of a call that does its work ``parts`` times, each of them."""

    def block(seconds: float) -> list[float]:
        samples = []
        end = time.perf_counter() + seconds
        while True:
            begin = time.perf_counter()
            call()
            done = time.perf_counter()
            samples.append((done - begin) / parts)
            if done >= end:
                return samples

    return block


def once(measure: Callable[[], float]) -> Block:
    """One sample a block, of something that measures itself."""
    return lambda seconds: [measure()]


def interleaved(
    section: str,
    candidates: Sequence[Candidate],
    blocks: int,
    block_seconds: float,
    tell: Callable[[float], None],
) -> list[Figure]:
    """``blocks`` rounds in which each candidate has a block of ``block_seconds``, after one to warm up, which does not
    count. Each round begins with another candidate, because some leave the caches colder than others. ``tell`` hears
    which share is done."""
    samples: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        candidate.block(block_seconds)
    for number in range(blocks):
        tell(number / blocks)
        first = number % len(candidates)
        for candidate in (*candidates[first:], *candidates[:first]):
            if number % candidate.every == 0:
                samples[candidate.name] += candidate.block(block_seconds)
    return [figure_of(section, one.name, one.unit, samples[one.name]) for one in candidates]
