"""A worker's life in order: greet, make the instance, serve. Runs in a process that its template has just forked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isoplug.shared.limits import EXIT_PROTOCOL, FRAME_OVERHEAD_BYTES, clip
from isoplug.shared.messages import (
    PROTOCOL,
    Failed,
    FailureKind,
    Hello,
    Invoke,
    Load,
    Loaded,
    LoadFailed,
    Returned,
    Stop,
)
from isoplug.worker import timer_thread
from isoplug.worker.guest import Blueprint, Guest, GuestFailure
from isoplug.worker.link import Link
from isoplug.worker.lockdown import Cell, Stage
from isoplug.worker.stubs import Courier

__all__ = ["live"]


def live(cell: Cell, blueprint: Blueprint, courier: Courier, _: Sequence[Any], lifeline_fd: int, link_fd: int) -> int:
    """Serve one supervisor until it says Stop; the return value is the process's exit code."""
    cell.move_in(lifeline_fd, link_fd)
    link = Link(link_fd, courier.frame_bytes + FRAME_OVERHEAD_BYTES)
    link.send(Hello(PROTOCOL))
    if not isinstance(link.receive(), Load):
        return EXIT_PROTOCOL
    cell.narrow(Stage.INSTANTIATE)
    courier.link = link
    try:
        with timer_thread.begins_behind():
            guest = Guest(blueprint)
        if blueprint.has_wasi:
            cell.narrow(Stage.RUN_WASI)
        else:
            timer_thread.wake_by_itself()
            cell.narrow(Stage.RUN)
            cell.narrow(Stage.RUN_GUEST)
        guest.start()
        if courier.broken is not None:
            raise courier.broken
    except GuestFailure as failure:
        link.send(LoadFailed(clip(failure.sentence)))
        link.receive()  # whatever it says: it has heard
        return 0
    link.send(Loaded())
    return _serve(link, guest, courier)


def _serve(link: Link, guest: Guest, courier: Courier) -> int:
    while True:
        message = link.receive()
        if isinstance(message, Stop):
            return 0
        if not isinstance(message, Invoke):
            return EXIT_PROTOCOL
        courier.begin(message.call)
        link.send(_invoke(guest, courier, message))


def _invoke(guest: Guest, courier: Courier, invoke: Invoke) -> Returned | Failed:
    failure: GuestFailure | None = None
    output = b""
    try:
        output = guest.call(invoke.export, invoke.input)
    except GuestFailure as error:
        failure = error
    except MemoryError:
        failure = GuestFailure(FailureKind.LIMIT, "limits.process_memory")
    if courier.broken is not None:  # whatever the guest made of it, it went on without an answer it was owed
        failure = courier.broken
    if failure is None:
        return Returned(invoke.call, output)
    return Failed(invoke.call, failure.kind, clip(failure.text), failure.figure)
