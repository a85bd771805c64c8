"""What a supervisor says about each plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PluginStatus", "resources_of"]


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A snapshot of one plugin.

    ``state`` is one of starting, ready, busy, asleep, backing_off, quarantined, stopped. ``failures`` counts calls that
    did not return; ``last_failure`` says why the last worker was lost. ``rss_bytes`` and ``cpu_seconds`` are sums over
    ``worker_pids``, the workers that run now, those of a version that stands by or is on its way out included.
    ``upgrade`` says why the newest version is not in charge, or that it is on trial.
    """

    id: str
    name: str
    version: str
    state: str
    worker_pids: tuple[int, ...]
    restarts: int
    calls: int
    failures: int
    last_failure: str | None
    rss_bytes: int
    cpu_seconds: float
    upgrade: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-serializable, in the order of the fields."""
        return {**asdict(self), "worker_pids": list(self.worker_pids)}


def resources_of(pids: Sequence[int]) -> tuple[int, float]:
    """Resident memory in bytes and CPU seconds of these processes; one that has just ended, or cannot be looked at
    because this process is out of descriptors, counts as nothing."""
    import psutil  # takes a fortieth of an `isoplug call`, which asks for no status

    rss_bytes, cpu_seconds = 0, 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                rss_bytes += process.memory_info().rss
                cpu_seconds += times.user + times.system
        except (psutil.Error, OSError):
            continue
    return rss_bytes, round(cpu_seconds, 3)
