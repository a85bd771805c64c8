"""A worker's life in order: lock down, connect, load, serve. Runs in a process that the zygote has just forked."""

from __future__ import annotations

from isoplug.shared.limits import EXIT_PROTOCOL, WorkerLimits, clip
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
from isoplug.worker.guest import Guest, GuestFailure
from isoplug.worker.link import Link
from isoplug.worker.lockdown import lock_down
from isoplug.worker.stubs import Courier, register

__all__ = ["live"]


def live(socket_path: str, limits: WorkerLimits, lifeline_fd: int) -> int:
    """Serve one supervisor until it says Stop; the return value is the process's exit code."""
    lock_down(limits, lifeline_fd)
    link = Link(socket_path)
    link.send(Hello(PROTOCOL))
    load = link.receive()
    if not isinstance(load, Load):
        return EXIT_PROTOCOL
    courier = Courier(link, limits.frame_bytes)
    stubs = register(courier, load.functions.splitlines(), load.notices.splitlines())
    try:
        guest = Guest(load.wasm, stubs, limits.wasm_memory_bytes, output_bound=limits.frame_bytes)
    except GuestFailure as failure:
        link.send(LoadFailed(failure.text))
        link.close()
        return 0
    del load  # the module's bytes; the compiled code stands elsewhere
    link.send(Loaded())
    exit_code = _serve(link, guest, courier)
    link.close()
    return exit_code


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
        failure = GuestFailure(FailureKind.LIMIT, "the worker ran out of memory; see limits.process_memory")
    if courier.broken is not None:  # whatever the guest made of it, it went on without an answer it was owed
        failure = GuestFailure(FailureKind.LIMIT, courier.broken)
    if failure is None:
        return Returned(invoke.call, output)
    return Failed(invoke.call, failure.kind, clip(failure.text))
