"""What happens to the processes: workers killed, stopped, crashed, out of memory; zygote and template gone."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from isoplug.shared.errors import CallTimeout, InvalidArgument, PluginError, ResourceLimitExceeded, WorkerCrashed
from isoplug.shared.messages import Failed, FailureKind, FromWorker, Invoke, Returned, encode
from isoplug.shared.zmtp import framed
from isoplug.supervisor.calls.interceptor import Delivery, Proceed
from isoplug.supervisor.chaos.faults.base import CallFault, register
from isoplug.supervisor.chaos.faults.signals import Parent, end_by, send, template_of, zygote_of
from isoplug.supervisor.chaos.faults.waits import (
    PATIENCE_SECONDS,
    fall_silent,
    pause,
    require_among,
    require_seconds,
)
from isoplug.supervisor.chaos.faults.wires import AfterInvoke, InsteadOfInvoke, OnReply
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.link import Gone

__all__ = ["Crash", "Kill", "OutOfMemory", "Stop", "TemplateKilled", "TemplateStopped", "ZygoteKilled"]

_MOMENTS = ("before", "sending", "delivery", "replying", "reply")


@register
@dataclass(frozen=True, slots=True)
class Kill(CallFault):
    """The worker is killed by SIGKILL, as by the kernel when memory runs out, or by a person with ``kill -9``.

    ``moment``: ``before`` the call is sent; when half of it is sent (``sending``); after its ``delivery``, while the
    worker is busy with it; when half of the reply has arrived (``replying``); after all of the ``reply`` has arrived,
    which the caller then gets.
    """

    name: ClassVar[str] = "kill"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = True

    moment: Literal["before", "sending", "delivery", "replying", "reply"] = "delivery"

    def __post_init__(self) -> None:
        require_among(self.name, "moment", self.moment, _MOMENTS)

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        worker, link = delivery.worker, delivery.worker.link

        def half_sent(invoke: Invoke, deadline: Deadline) -> None:
            link.send_raw(_first_half(encode(invoke)), deadline)
            end_by(worker, signal.SIGKILL)

        def half_received(reply: Returned | Failed, deadline: Deadline) -> FromWorker:
            end_by(worker, signal.SIGKILL)
            link.feed(_first_half(encode(reply)))
            return link.receive(deadline)

        match self.moment:
            case "before":
                end_by(worker, signal.SIGKILL)
            case "sending":
                delivery.wire = InsteadOfInvoke(delivery.wire, half_sent)
            case "delivery":
                delivery.wire = AfterInvoke(delivery.wire, partial(_die, delivery, signal.SIGKILL))
            case "replying":
                delivery.wire = OnReply(delivery.wire, half_received)
            case "reply":
                outcome = proceed(delivery)
                end_by(worker, signal.SIGKILL)
                return outcome
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class Crash(CallFault):
    """The worker crashes in native code while it is busy with the call, as by a defect of the WebAssembly runtime or of
    a library. ``signal``: what it dies of, ``SEGV``, ``ABRT``, ``BUS``, ``FPE`` or ``ILL``."""

    name: ClassVar[str] = "crash"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = False

    signal: Literal["SEGV", "ABRT", "BUS", "FPE", "ILL"] = "SEGV"

    def __post_init__(self) -> None:
        require_among(self.name, "signal", self.signal, ("SEGV", "ABRT", "BUS", "FPE", "ILL"))

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        number = signal.Signals[f"SIG{self.signal}"]
        delivery.wire = AfterInvoke(delivery.wire, partial(_die, delivery, number))
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class Stop(CallFault):
    """The worker stops while it is busy with the call, as under a debugger, in a frozen control group, or on a machine
    that swaps. ``seconds``: it goes on after so long; 0: never, and the call ends as at its deadline, after
    ``patience``."""

    name: ClassVar[str] = "stop"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    may_answer: ClassVar[bool] = True

    seconds: float = 0.0
    patience: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        require_seconds(self.name, seconds=self.seconds, patience=self.patience)

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def stop() -> None:
            send(delivery.worker, signal.SIGSTOP)
            if not self.seconds:
                fall_silent(self.patience, delivery.deadline)
            pause(self.seconds, delivery.deadline)
            send(delivery.worker, signal.SIGCONT)

        delivery.wire = AfterInvoke(delivery.wire, stop)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class OutOfMemory(CallFault):
    """Memory runs out during the call. ``by``: the worker's own ``limit`` (``limits.process_memory``), which it reports
    itself when it cannot make its answer; or the ``kernel``, which kills it.

    The worker is not really short of memory: at which allocation it would fail is not the same in each run.
    """

    name: ClassVar[str] = "out-of-memory"
    ends: ClassVar[tuple[type[PluginError], ...]] = (ResourceLimitExceeded, WorkerCrashed)
    may_answer: ClassVar[bool] = False

    by: Literal["limit", "kernel"] = "limit"

    def __post_init__(self) -> None:
        require_among(self.name, "by", self.by, ("limit", "kernel"))

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        if self.by == "kernel":
            delivery.wire = AfterInvoke(delivery.wire, partial(_die, delivery, signal.SIGKILL))
        else:
            delivery.wire = OnReply(delivery.wire, _without_memory)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class ZygoteKilled(CallFault):
    """The zygote, from which templates are forked, is killed during the call. Templates and workers go on, and the next
    template has a new zygote."""

    name: ClassVar[str] = "zygote-killed"
    ends: ClassVar[tuple[type[PluginError], ...]] = ()
    may_answer: ClassVar[bool] = True

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        delivery.wire = AfterInvoke(delivery.wire, lambda: _kill(zygote_of(delivery.worker)))
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class TemplateKilled(CallFault):
    """The template, which has compiled the plugin and from which its workers are forked, is killed during the call, as
    by the kernel when memory runs out: it may be the largest. Its workers go on, and the next one has a new template.
    ``worker``: the worker is killed as well, so that the next one is wanted at once."""

    name: ClassVar[str] = "template-killed"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = True

    worker: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.worker, bool):
            raise InvalidArgument(f"fault {self.name!r}: worker is true or false, not {self.worker!r}")

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def kill() -> None:
            _kill(template_of(delivery.worker))
            if self.worker:
                _die(delivery, signal.SIGKILL)

        delivery.wire = AfterInvoke(delivery.wire, kill)
        return proceed(delivery)


@register
@dataclass(frozen=True, slots=True)
class TemplateStopped(CallFault):
    """The template stops for ``seconds``, and meanwhile the worker dies: it is the template that reports deaths and
    forks the next worker."""

    name: ClassVar[str] = "template-stopped"
    ends: ClassVar[tuple[type[PluginError], ...]] = (WorkerCrashed,)
    may_answer: ClassVar[bool] = False

    seconds: float = 0.03

    def __post_init__(self) -> None:
        require_seconds(self.name, seconds=self.seconds)

    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        def stop() -> None:
            template = template_of(delivery.worker)
            if template is not None:
                template.send(signal.SIGSTOP)
                threading.Timer(self.seconds, _go_on, (template,)).start()
            _die(delivery, signal.SIGKILL)

        delivery.wire = AfterInvoke(delivery.wire, stop)
        return proceed(delivery)


def _die(delivery: Delivery, number: signal.Signals) -> None:
    """Raises Gone: what the worker may just have answered did not arrive, in no run."""
    end_by(delivery.worker, number)
    raise Gone


def _first_half(message: bytes) -> bytes:
    frame = framed(message)
    return frame[: len(frame) // 2]


def _without_memory(reply: Returned | Failed, _: Deadline) -> FromWorker:
    return Failed(reply.call, FailureKind.LIMIT, "limits.process_memory")


def _kill(parent: Parent | None) -> None:
    if parent is not None:
        with parent:
            parent.kill()


def _go_on(parent: Parent) -> None:
    with parent:
        parent.send(signal.SIGCONT)
