"""A figure: what was measured of one thing, as percentiles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Figure", "Unit", "figure_of", "shown"]


class Unit(StrEnum):
    """What a figure counts."""

    SECONDS = "s"
    PER_SECOND = "calls/s"
    BYTES = "bytes"
    CORES = "cores"  #: CPU seconds a second


@dataclass(frozen=True, slots=True)
class Figure:
    """``samples`` measurements of one thing; ``p50`` is their median. Names are unique over all sections."""

    section: str
    name: str
    unit: Unit
    samples: int
    least: float
    p10: float
    p50: float
    p90: float
    p99: float
    most: float


def figure_of(section: str, name: str, unit: Unit, samples: Sequence[float]) -> Figure:
    """Raises ValueError when there are no samples."""
    if not samples:
        raise ValueError(f"{name}: no samples")
    ordered = sorted(samples)
    p10, p50, p90, p99 = (_percentile(ordered, share) for share in (0.1, 0.5, 0.9, 0.99))
    return Figure(section, str(name), unit, len(ordered), ordered[0], p10, p50, p90, p99, ordered[-1])


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest samples, in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def shown(value: float, unit: Unit) -> str:
    """For people, with three digits and a unit that suits the value."""
    match unit:
        case Unit.SECONDS:
            scale = next((one for one in _TIMES if abs(value) >= one[0]), _TIMES[-1])
            return f"{_digits(value / scale[0])} {scale[1]}"
        case Unit.PER_SECOND:
            return f"{value:,.0f} /s"
        case Unit.BYTES:
            return f"{_digits(value / 1e6)} MB"
        case Unit.CORES:
            return f"{_digits(value * 100)} %"


_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
