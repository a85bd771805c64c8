"""When a worker has served long enough. Rules without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from isoplug.supervisor import config

__all__ = ["RecyclePolicy"]


@dataclass(frozen=True, slots=True)
class RecyclePolicy:
    """Bounds on one worker's life; 0 means that there is none."""

    calls: int = 0
    age_seconds: float = 0.0
    memory_bytes: int = 0

    @classmethod
    def of(cls, settings: config.Recycle) -> RecyclePolicy:
        """As configured; the defaults stand in ``config.Recycle`` and nowhere else."""
        return cls(calls=settings.calls, age_seconds=settings.age, memory_bytes=settings.memory)

    def reason(self, calls: int, age_seconds: float = 0.0, memory_bytes: int = 0) -> str | None:
        """Why a worker is due that served so many calls for so long and has so much resident; None when it is not."""
        if self.calls and calls >= self.calls:
            return f"it had served {calls} calls"
        if self.age_seconds and age_seconds >= self.age_seconds:
            return f"it had served for {self.age_seconds:g} s"
        if self.memory_bytes and memory_bytes >= self.memory_bytes:
            return f"it had grown to {memory_bytes} bytes, recycle.memory is {self.memory_bytes}"
        return None
