"""What is different between two configurations, and what of it a running service can take over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from isoplug.supervisor.config import Config

__all__ = ["ConfigChanges", "compare"]

#: The rest is built into the supervisor when it starts.
_LIVE_SECTIONS = frozenset({"service"})


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Keys such as ``calls.timeout``, in the order of the file."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"applied": list(self.applied), "needs_restart": list(self.needs_restart)}


def compare(running: Config, wanted: Config) -> ConfigChanges:
    keys = _differing(running, wanted)
    live = [key for key in keys if key.partition(".")[0] in _LIVE_SECTIONS]
    return ConfigChanges(tuple(live), tuple(key for key in keys if key not in live))


def _differing(old: BaseModel, new: BaseModel, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and type(before) is type(after):
            keys += _differing(before, after, f"{prefix}{name}.")
        elif before != after:
            keys.append(prefix + name)
    return keys
