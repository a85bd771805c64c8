"""What a worker's process gives up: the layers by name, how much of it a host demands, and what was really applied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["ROOT_LAYERS", "Layer", "Lockdown", "Protection"]


class Lockdown(StrEnum):
    """``lockdown`` in the configuration."""

    FULL = "full"  #: no worker without every layer
    BEST_EFFORT = "best-effort"  #: every layer that this machine has; one warning names the others
    OFF = "off"  #: descriptors, environment, resource limits and death with the supervisor, and nothing else


class Layer(StrEnum):
    """In the order in which they are applied. Each is a module of ``isoplug.worker.lockdown``."""

    JAIL = "jail"  #: the root folder is an empty one
    USER = "user"  #: a user id of its own, that nobody else has
    CAPABILITIES = "capabilities"  #: none, and none to be had
    NO_NEW_PRIVILEGES = "no-new-privileges"  #: no exec can give any back
    UNDUMPABLE = "undumpable"  #: no other process of the same user looks into it
    LANDLOCK = "landlock"  #: no file, no TCP port, no abstract socket, no signal beyond itself
    SECCOMP = "seccomp"  #: the system calls of its trade, and no others


#: Only root can apply them, so for anybody else they are not missing.
ROOT_LAYERS = frozenset({Layer.JAIL, Layer.USER})


@dataclass(frozen=True, slots=True)
class Protection:
    """What one process got: the layers that were applied, and for each that is missing the reason."""

    applied: Collection[Layer] = ()
    missing: Mapping[Layer, str] = field(default_factory=dict)

    @property
    def gaps(self) -> str:
        """What is missing, for a sentence."""
        return "; ".join(f"{layer}: {reason}" for layer, reason in self.missing.items())
