"""How layers are applied, which this user can apply, and what each raises when this machine does not have it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeAlias

from isoplug.shared.lockdown import ROOT_LAYERS, Layer, Protection

__all__ = ["LayerMissing", "Step", "applicable", "apply"]

#: A layer may have several steps, in different places of the order.
Step: TypeAlias = tuple[Layer, Callable[[], None]]


class LayerMissing(Exception):
    """The kernel, or the container around it, does not offer a layer. The text says what is missing and what would
    change that; nothing of the layer has been applied."""


def applicable() -> frozenset[Layer]:
    """The layers that this process's user can apply, if the machine has them."""
    return frozenset(Layer) if os.geteuid() == 0 else frozenset(Layer) - ROOT_LAYERS


def apply(steps: Iterable[Step]) -> Protection:
    """A layer that fails in one step is missing, and its later steps are left out; so are those of layers that are not
    for this user, which are not missing."""
    possible = applicable()  # asked once: one of the steps changes the user
    applied: set[Layer] = set()
    missing: dict[Layer, str] = {}
    for layer, step in steps:
        if layer in possible and layer not in missing:
            try:
                step()
                applied.add(layer)
            except LayerMissing as gap:
                missing[layer] = str(gap)
    return Protection(tuple(layer for layer in Layer if layer in applied and layer not in missing), missing)
