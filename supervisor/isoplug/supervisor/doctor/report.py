"""What ``isoplug doctor`` found; ``to_json`` is its ``--json``, whose keys stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from isoplug.shared.lockdown import Layer, Lockdown

__all__ = ["Evidence", "LayerFinding", "Note", "Report", "WorkerFinding"]


class Evidence(StrEnum):
    """Who says what a worker got."""

    KERNEL = "kernel"  #: read from /proc, by another process
    WORKER = (
        "worker"  #: its own word, given before it had seen the plugin: the kernel shows it to nobody, or not to you
    )


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """One layer.

    ``offered``: an attempt in a process of its own was stopped; None when only root can apply it and this user is not
    root. ``applied``: a real worker has it; None likewise, and when no worker could be started. ``found``: what that is
    known from. ``problem`` and ``advice``: of a gap; None when there is none.
    """

    name: Layer
    offered: bool | None
    applied: bool | None
    evidence: Evidence | None
    found: str
    problem: str | None = None
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerFinding:
    """The worker that was looked at. ``limits``: its soft limits, None for no bound; the keys have the units.
    ``descriptors``: how many it has open, None when only root may know."""

    threads: int
    uid: int
    seccomp_filters: int | None
    descriptors: int | None
    limits: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Note:
    """Something else about this machine or the configuration that will get in the way, and what to do about it."""

    about: str
    problem: str
    advice: str


@dataclass(frozen=True, slots=True)
class Report:
    """``lockdown``: what the configuration demands. ``versions`` and ``machine`` are facts by name. ``failure``: why no
    worker could be started."""

    lockdown: Lockdown
    layers: tuple[LayerFinding, ...]
    worker: WorkerFinding | None
    failure: str | None
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    notes: tuple[Note, ...]

    @property
    def is_full(self) -> bool:
        """``lockdown = "full"`` would start workers."""
        return self.worker is not None and not any(layer.problem for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        return {"full": self.is_full, **asdict(self)}
