"""What must hold whatever faults strike: the promises, by name, and where each was first seen broken."""

from __future__ import annotations

from typing import Final

from isoplug.supervisor.chaos.place import Step
from isoplug.supervisor.chaos.report import Broken, Promise

__all__ = ["MEANINGS", "Verdict"]

#: In the order of reports.
MEANINGS: Final[dict[str, str]] = {
    "answered": "every call is answered exactly once, with a value or a typed error",
    "in-time": "every call is answered by its deadline",
    "explained": "a call fails only with an error that a fault which struck it explains",
    "same-answers": "a call that is answered gets the answer that it gets without faults",
    "nothing-twice": "nothing is done more often than without faults",
    "nothing-lost": "what an answered call does without faults, it has done, and it is there at the end",
    "true-outcome": "a failed call says truly whether it has changed anything",
    "events": "no event is lost",
    "status": "the supervisor says its status at any time",
    "tidy": "no process, descriptor or folder is left behind",
    "memory": "memory stays flat",
}


class Verdict:
    """Collects what was seen; of each promise the first counter-example counts."""

    def __init__(self) -> None:
        self._broken: dict[str, Broken] = {}
        self._notes: dict[str, str] = {}
        self._unchecked: set[str] = set()

    def breaks(self, name: str, text: str, step: Step | None = None) -> None:
        assert name in MEANINGS
        self._broken.setdefault(name, Broken(text, step))

    def add(self, later: Verdict) -> None:
        """What was seen broken after all that is in here."""
        self._broken = {**later._broken, **self._broken}

    def note(self, name: str, text: str) -> None:
        """What was not looked at, and why."""
        assert name in MEANINGS
        self._notes[name] = "; ".join(filter(None, (self._notes.get(name), text)))

    def leaves_open(self, name: str, why: str) -> None:
        """Nothing of it was looked at. Where it was broken all the same, it was looked at."""
        if name not in self._broken:
            self.note(name, why)
            self._unchecked.add(name)

    @property
    def is_broken(self) -> bool:
        return bool(self._broken)

    @property
    def promises(self) -> tuple[Promise, ...]:
        return tuple(
            Promise(name, means, self._broken.get(name), self._notes.get(name, ""), name not in self._unchecked)
            for name, means in MEANINGS.items()
        )
