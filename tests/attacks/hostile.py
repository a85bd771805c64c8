"""Imported by the zygote: from then on the raw export ``attack`` of any guest runs native code.

Everything that an attack may need is imported here, because nothing can be imported under the lock.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Collection
from typing import Any

from attacks import (  # noqa: F401
    files,
    harm,
    machine,
    pages,
    privileges,
    processes,
    questions,
    secrets,
    sockets,
    undoing,
)
from attacks.registry import attempt
from attacks.targets import Targets
from isoplug.shared.forking import TemplateOrder
from isoplug.worker import guest
from isoplug.worker.lockdown import cell

__all__ = ["take_over"]

_NEWNS, _NEWUTS, _NEWIPC = 0x2_0000, 0x400_0000, 0x800_0000
_MS_REC_PRIVATE = 0x4000 | 1 << 18


def take_over(left_out: Collection[str]) -> None:
    """Replace the guest's calls, and leave out layers of the lock-down by their names."""
    _protect_the_machine()
    _leave_out(left_out)
    call = guest.Guest.call

    def hostile(self: Any, export: str, data: bytes) -> bytes:
        if export != "attack":
            return call(self, export, data)
        order = json.loads(data)
        return json.dumps(attempt(order["name"], Targets.from_json(order["targets"]))).encode()

    guest.Guest.call = hostile  # type: ignore[method-assign]


def _leave_out(names: Collection[str]) -> None:
    layers = cell._layers

    def fewer(order: TemplateOrder) -> list[Any]:
        return [step for step in layers(order) if step[0] not in names]

    cell._layers = fewer


def _protect_the_machine() -> None:
    """As root: namespaces of the zygote's own, so that what an attack mounts or names is nobody else's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(_NEWNS | _NEWUTS | _NEWIPC) == 0:
        libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
