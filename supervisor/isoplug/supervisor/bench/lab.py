"""What a section gets to measure with: a folder, time, somebody to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isoplug.supervisor.bench.blocks import Candidate, interleaved
from isoplug.supervisor.bench.figures import Figure

__all__ = ["FULL", "SHORT", "Lab", "Pace", "Section"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        blocks: how often each candidate has its turn.
        block_seconds: how long a turn of one that takes less than that is.
        idle_seconds: how long idle processes are watched.
        crowds: how many plugins there are while memory is looked at, rising; goals are about the last one.
        again: how often at most a section is measured once more that misses a goal by more than twice. Noise passes, a
            regression stays.
    """

    blocks: int = 30
    block_seconds: float = 0.02
    idle_seconds: float = 20.0
    crowds: tuple[int, ...] = (1, 10, 100, 200)
    again: int = 0


FULL: Final = Pace()
SHORT: Final = Pace(blocks=6, idle_seconds=4.0, crowds=(1, 200), again=5)


@dataclass(frozen=True, slots=True)
class Lab:
    """Of one section. What is in ``cleanup`` is undone, and ``folder`` removed, when it has ended."""

    section: str
    folder: Path
    pace: Pace
    cleanup: ExitStack
    tell: Callable[[float], None]
    #: What could not be measured, and why.
    missing: dict[str, str] = field(default_factory=dict)

    def interleaved(self, candidates: Sequence[Candidate]) -> list[Figure]:
        return interleaved(self.section, candidates, self.pace.blocks, self.pace.block_seconds, self.tell)


@dataclass(frozen=True, slots=True)
class Section:
    """``measure`` raises what isoplug raises, and OSError."""

    name: str
    what: str
    measure: Callable[[Lab], Sequence[Figure]]
