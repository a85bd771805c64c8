"""What came of a run: figures, what could not be measured, where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.figures import Figure, Unit
from isoplug.supervisor.bench.goals import Verdict, judge_all

__all__ = ["Report"]

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Report:
    """``missing`` says of what could not be measured why; ``options`` how much was measured; ``facts`` on what machine.
    ``began_at`` is UTC, in ISO 8601."""

    began_at: str
    seconds: float
    figures: tuple[Figure, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """How the figures stand to the goals of this version of isoplug."""
        return judge_all(self.figures)

    def to_json(self) -> dict[str, Any]:
        """JSON-serializable. Seconds, bytes, calls a second and shares of a core throughout."""
        return {
            "format": _FORMAT,
            "began_at": self.began_at,
            "seconds": self.seconds,
            "options": dict(self.options),
            "facts": dict(self.facts),
            "figures": [asdict(figure) for figure in self.figures],
            "missing": dict(self.missing),
            "goals": [_verdict(verdict) for verdict in self.verdicts],
        }

    @classmethod
    def from_json(cls, document: Any) -> Report:
        """What ``to_json`` made. Goals are judged again, not read. Raises SetupError."""
        try:
            if document["format"] != _FORMAT:
                raise SetupError(f"the report has format {document['format']}, this isoplug reads {_FORMAT}")
            return cls(
                str(document["began_at"]),
                float(document["seconds"]),
                tuple(_figure(one) for one in document["figures"]),
                {str(name): str(why) for name, why in document["missing"].items()},
                dict(document["options"]),
                dict(document["facts"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SetupError(f"this is no report of isoplug bench: {type(error).__name__}: {error}") from error


def _figure(document: Mapping[str, Any]) -> Figure:
    numbers = (float(document[name]) for name in ("least", "p10", "p50", "p90", "p99", "most"))
    name, unit = str(document["name"]), Unit(document["unit"])
    return Figure(str(document["section"]), name, unit, int(document["samples"]), *numbers)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    goal = verdict.goal
    return {
        "name": goal.name,
        "meaning": goal.meaning,
        "value": verdict.value,
        "at_least" if goal.is_floor else "at_most": goal.bound,
        "unit": "ratio" if goal.unit is None else goal.unit,
        "is_met": verdict.is_met,
    }
