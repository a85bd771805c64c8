"""The life of a template: lock down, compile one module, then fork the workers that run it.

It never makes an instance of the module, so no code of a guest runs in it, and a fork of it has nothing to repair: a
process that holds a compiled module and nothing else may fork, and its child may make an instance.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from isoplug.shared.forking import TemplateOrder
from isoplug.shared.limits import EXIT_LOCKDOWN, clip
from isoplug.shared.lockdown import Lockdown
from isoplug.worker import main
from isoplug.worker.forking import ForkServer
from isoplug.worker.guest import Blueprint, GuestFailure
from isoplug.worker.lockdown import Cell
from isoplug.worker.stubs import Courier, register

__all__ = ["live"]


def live(fields: Sequence[Any], lifeline_fd: int, control_fd: int, module_fd: int) -> int:
    """Until the supervisor closes the conversation; the return value is the exit code."""
    order = TemplateOrder.of(fields)
    with open(module_fd, "rb") as file:
        wasm = file.read()
    control = socket.socket(fileno=control_fd)  # which asks the kernel what it is
    cell = Cell(order, lifeline_fd, control_fd)
    courier = Courier(order.limits.frame_bytes)
    server = ForkServer(control)
    with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor has closed the conversation
        server.say("locked", list(cell.protection.applied), dict(cell.protection.missing))
        if cell.protection.missing and order.lockdown is Lockdown.FULL:
            return EXIT_LOCKDOWN
        stubs = register(courier, order.functions.splitlines(), order.notices.splitlines())
        try:
            blueprint = Blueprint(wasm, stubs, order.limits)
        except GuestFailure as failure:
            server.say("failed", clip(failure.text))
            return 0
        del wasm
        gc.freeze()  # workers share these pages; a collection there would copy them
        server.say("compiled")
        server.serve(partial(main.live, cell, blueprint, courier))
    server.end_children()
    return 0
