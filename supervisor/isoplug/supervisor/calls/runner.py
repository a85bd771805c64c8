"""Runs calls: gate, lease, exchange, bookkeeping. The one place where a worker's fate is decided."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from isoplug.shared.errors import (
    CallCancelled,
    CallTimeout,
    CommandError,
    CommandNotFound,
    CrashReason,
    DepthLimitExceeded,
    GuestTrap,
    PermissionDenied,
    PluginError,
    ResourceLimitExceeded,
    ServiceError,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, FailureKind, Returned
from isoplug.shared.record import CallRecord
from isoplug.supervisor import wall_clock
from isoplug.supervisor.calls.commands import decode_answer, encode_request, require_declared
from isoplug.supervisor.calls.crash import Crash, OnCrash
from isoplug.supervisor.calls.exchange import exchange
from isoplug.supervisor.calls.frame import Frame
from isoplug.supervisor.calls.gate import Gate
from isoplug.supervisor.calls.host_calls import HostCalls, bounded
from isoplug.supervisor.calls.interceptor import Delivery, Interceptor, Proceed
from isoplug.supervisor.calls.options import CallOptions
from isoplug.supervisor.calls.poison import PoisonLedger, fingerprint_of
from isoplug.supervisor.calls.retries import repeated
from isoplug.supervisor.calls.steps import Steps, finish
from isoplug.supervisor.deadline import Deadline, call_deadline
from isoplug.supervisor.host import GuestAbort, HostContext, Services
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import Permission
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.pool import Chain, ExitReason, Lease, Loss, Pool, PoolClosed, State, Worker
from isoplug.supervisor.pool.budget import Exceeded
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.websockets import WorkerReplaced

__all__ = ["CallRunner"]

_log = get_logger(__name__)

_T = TypeVar("_T")


class _WorkerLost(Exception):
    """A call ended and took its worker with it: what the caller gets, and what the pool has to know."""

    def __init__(self, error: PluginError, reason: ExitReason, text: str) -> None:
        super().__init__(text)
        self.error, self.loss = error, Loss(reason, text)


class CallRunner:
    """Thread-safe. Calls run in their caller's thread from beginning to end."""

    def __init__(
        self,
        table: PluginTable,
        services: Services,
        *,
        call_timeout_seconds: float,
        max_depth: int,
        interceptors: Sequence[Interceptor] = (),
        on_crash: OnCrash = lambda _: None,
    ) -> None:
        """The first interceptor is the outermost."""
        self._table = table
        self._on_crash = on_crash
        self._interceptors = tuple(interceptors)
        self._services = services
        self._call_timeout_seconds = call_timeout_seconds
        self._max_depth = max_depth
        self.gate = Gate()
        self.poisons = PoisonLedger()

    # --- calls from outside ---------------------------------------------------------------------------------------

    def new_chain(self) -> Chain:
        return Chain()

    def deadline(self, timeout: float | Deadline | None) -> Deadline:
        """Seconds from now; None means the configured default. Raises InvalidArgument."""
        if isinstance(timeout, Deadline):
            return timeout
        return Deadline.after(self._call_timeout_seconds if timeout is None else timeout)

    @contextmanager
    def open_frame(self, deadline: Deadline) -> Iterator[Frame]:
        """A call from outside, depth 0. Errors that leave it have its outcome and record. Entering raises
        SupervisorClosed."""
        frame = Frame(Chain(), deadline)
        try:
            self.gate.let_in(frame.chain)
            yield frame
        except PluginError as error:
            error.settle(frame.chain.record)
            raise
        finally:
            self.gate.let_out(frame.chain)

    def run(self, options: CallOptions, work: Callable[[Frame], Steps[_T]]) -> Steps[_T]:
        """``work`` as a call from outside, with all that a caller may ask of one."""
        # As ``open_frame``, and not by it: a context manager takes longer, and has more places for an interrupt.
        frame = Frame(Chain(options.record), options.deadline, 0, options.offered_files, options.pauses)
        try:
            self.gate.let_in(frame.chain)
            if options.cancellation is not None:
                options.cancellation.cover(frame.chain)
            if not options.retries:
                return (yield from _attempt(work, frame, options.strict))
            if frame.pauses:
                yield None

            def attempt() -> _T:
                return finish(_attempt(work, frame, options.strict))

            return repeated(attempt, frame.chain, frame.deadline, options.retries)
        except PluginError as error:
            error.settle(frame.chain.record)
            raise
        finally:
            self.gate.let_out(frame.chain)
            if options.cancellation is not None:
                options.cancellation.uncover(frame.chain)

    # --- calls ----------------------------------------------------------------------------------------------------

    def command(self, plugin: Plugin, command: str, params: Any, frame: Frame) -> Steps[Any]:
        """A declared command through ``handle_command``; its data, or a typed error."""
        require_declared(plugin.manifest, command)
        request = encode_request(command, params)
        try:
            doing = f"command {command!r}"
            output = yield from self.call_in_steps(plugin, "handle_command", request, frame, doing=doing)
        except CommandNotFound:
            raise CommandNotFound(plugin.id, command) from None  # declared, but the guest has no handle_command
        return decode_answer(plugin.id, command, output)

    def call(self, plugin: Plugin, export: str, data: bytes, frame: Frame, instance: int | None = None) -> bytes:
        """``call_in_steps``, in this thread."""
        return finish(self.call_in_steps(plugin, export, data, frame, instance=instance))

    def call_in_steps(
        self,
        plugin: Plugin,
        export: str,
        data: bytes,
        frame: Frame,
        doing: str | None = None,
        instance: int | None = None,
    ) -> Steps[bytes]:
        """One call in a leased worker; ``doing`` says in messages what it is, by default the export. ``instance``: only
        in this one, see ``Pool.instance``; WorkerReplaced is raised instead of calling another.

        Raises what SPEC section 11 lists; afterwards the worker is back or replaced.
        """
        plugin.counters.begin()
        try:
            doing = doing or f"export {export!r}"
            return (yield from self._call_unpoisoned(plugin, export, data, frame, doing, instance))
        except (CommandNotFound, WorkerReplaced):
            raise  # an optional export that is missing is no failure
        except BaseException:
            plugin.counters.fail()
            raise

    def call_starting(
        self, worker: Worker, plugin_id: str, export: str, data: bytes, frame: Frame, services: Services | None = None
    ) -> bytes:
        """A call in a worker that no pool has yet (``manifest``, ``set_config``, ``init``) or no longer (``shutdown``).

        Raises CommandNotFound when the guest has no such export and CommandError when it reported an error; after
        anything else the worker is unusable and its owner has to end it.
        """
        doing = f"export {export!r}"
        with self.gate.errand(frame.chain, plugin_id):
            try:
                services = services or self._services
                return finish(self._call_in(worker, plugin_id, export, data, frame, services, doing, is_lent=False))
            except _WorkerLost as lost:
                self.report(lost.error, plugin_id, export, doing, frame, worker)
                raise lost.error from None

    def report(
        self, error: PluginError, plugin_id: str, export: str, doing: str, frame: Frame, worker: Worker | None
    ) -> None:
        """Tell of an error that has cost a worker, if it is a crash."""
        if isinstance(error, (WorkerCrashed, GuestTrap, ResourceLimitExceeded)):
            crash = Crash(plugin_id, export, doing, error, frame.chain.record, worker)
            error.crash_report = self._on_crash(crash)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _call_unpoisoned(
        self, plugin: Plugin, export: str, data: bytes, frame: Frame, doing: str, instance: int | None
    ) -> Steps[bytes]:
        if not self.poisons.suspects(plugin.id):
            return (yield from self._call_leased(plugin, export, data, frame, doing, instance))
        if frame.pauses:
            yield None
        fingerprint = fingerprint_of(export, data, frame.offered_files)
        self.poisons.require_unpoisoned(plugin.id, fingerprint)
        try:
            output = yield from self._call_leased(plugin, export, data, frame, doing, instance, fingerprint)
        except CommandError:  # the guest said no, in good order
            self.poisons.acquit(plugin.id, fingerprint)
            raise
        self.poisons.acquit(plugin.id, fingerprint)
        return output

    def _call_leased(
        self,
        plugin: Plugin,
        export: str,
        data: bytes,
        frame: Frame,
        doing: str,
        instance: int | None,
        fingerprint: str | None = None,
    ) -> Steps[bytes]:
        """``fingerprint``: the input's, as far as it is known; otherwise it is taken when the worker dies, because that
        takes a second for a gigabyte."""
        pool, lease = yield from self._acquire(plugin, frame)
        if instance is not None and instance != pool.instance:
            lease.release(has_served=False)
            raise WorkerReplaced
        try:
            output = yield from self._call_in(
                lease.worker, plugin.id, export, data, frame, self._services, doing, is_lent=True
            )
        except _WorkerLost as lost:
            if isinstance(lost.error, WorkerCrashed) and not _is_not_of_the_input(lost.error):
                loss = lost.loss._replace(fingerprint=fingerprint or fingerprint_of(export, data, frame.offered_files))
                self._discard_after_crash(plugin, pool, lease, loss, doing)
            else:
                lease.discard(lost.loss)
            self.report(lost.error, plugin.id, export, doing, frame, lease.worker)
            raise lost.error from None
        except PluginError:  # the guest said no, in good order
            lease.release()
            raise
        except BaseException:  # an interrupt of the caller's thread, in the middle of an exchange
            lease.discard(Loss(ExitReason.CANCELLED, "its caller was interrupted"))
            raise
        finally:
            if export == "set_config":  # whatever it said to it, the others were started with an older one
                plugin.renew(lease.instance)
        lease.release()
        plugin.versions.answered(pool)
        return output

    def _discard_after_crash(self, plugin: Plugin, pool: Pool, lease: Lease, loss: Loss, doing: str) -> None:
        """The input gets a strike. One that is set aside by it costs the plugin nothing: neither the earlier death,
        which otherwise could make this one the last that is allowed, nor this one."""
        fingerprint = loss.fingerprint or ""
        is_set_aside = self.poisons.strike(plugin.id, fingerprint, doing, loss.text, wall_clock.now())
        if is_set_aside:
            _log.error("input.set_aside", plugin=plugin.id, what=doing, fingerprint=fingerprint, cause=loss.text)
            pool.pardon(fingerprint)
        lease.discard(loss)
        if is_set_aside:
            pool.pardon(fingerprint)

    def _acquire(self, plugin: Plugin, frame: Frame) -> Steps[tuple[Pool, Lease]]:
        """A worker of the version in charge, also when that changes while the call waits."""
        while True:
            pool = plugin.pool
            try:
                if frame.pauses:
                    if (lease := pool.try_acquire(frame.chain, frame.deadline)) is not None:
                        return pool, lease
                    yield None
                return pool, pool.acquire(frame.chain, frame.deadline, frame.depth)
            except CallCancelled:
                if self.gate.is_closing:  # it was ``drain`` that cancelled it
                    raise SupervisorClosed(plugin.id) from None
                raise
            except PoolClosed:
                if plugin.pool is pool and pool.state is State.STOPPED:
                    raise SupervisorClosed(plugin.id) from None

    def _call_in(
        self,
        worker: Worker,
        plugin_id: str,
        export: str,
        data: bytes,
        frame: Frame,
        services: Services,
        doing: str,
        *,
        is_lent: bool,
    ) -> Steps[bytes]:
        if len(data) > self._services.frame_bytes:
            raise ResourceLimitExceeded(
                plugin_id, "the size of the input in bytes", len(data), self._services.frame_bytes, key="limits.frame"
            )
        serve = HostCalls(self, worker, plugin_id, frame, services)
        outer = frame.chain.enter(worker)
        frame.chain.record.delivery_count += 1
        outer_deadline = call_deadline.set(frame.deadline)
        try:
            if self._interceptors:
                if frame.pauses:
                    yield None
                outcome = self._intercepted(worker, plugin_id, export, data, frame, serve, is_lent)
            else:
                link = worker.link
                outcome = yield from exchange(
                    worker, link, export, data, frame.deadline, serve, link if frame.pauses else None
                )
        except (Silence, Gone, Breach, Exceeded, GuestAbort) as end:
            if frame.pauses:
                yield None
            raise self._lost(worker, plugin_id, doing, frame, end) from None
        finally:
            call_deadline.reset(outer_deadline)
            frame.chain.leave(outer)
        if frame.chain.is_cancelled:  # while the result was on its way: the worker is dead, or about to be
            if frame.pauses:
                yield None
            raise self._lost(worker, plugin_id, doing, frame, Gone())
        if isinstance(outcome, Failed):
            raise _failure(plugin_id, export, doing, outcome)
        return outcome.output

    def _intercepted(
        self, worker: Worker, plugin_id: str, export: str, data: bytes, frame: Frame, serve: HostCalls, is_lent: bool
    ) -> Returned | Failed:
        """Raises what ``exchange`` does."""

        def proceed(delivery: Delivery) -> Returned | Failed:
            return finish(exchange(delivery.worker, delivery.wire, export, data, delivery.deadline, delivery.serve))

        def serve_with_those(function: str, payload: bytes) -> bytes:
            serve.services = delivery.services
            return serve(function, payload)

        proceed_in_turn: Proceed = proceed
        for interceptor in reversed(self._interceptors):
            proceed_in_turn = partial(interceptor.intercept, proceed=proceed_in_turn)
        delivery = Delivery(
            plugin_id=plugin_id,
            export=export,
            data=data,
            worker=worker,
            is_lent=is_lent,
            depth=frame.depth,
            deadline=frame.deadline,
            record=frame.chain.record,
            wire=worker.link,
            services=serve.services,
            serve=serve_with_those,
        )
        return proceed_in_turn(delivery)

    def run_nested(self, caller: HostContext, target_id: str, command: str, params: Any, frame: Frame) -> Any:
        """``host_plugin_command`` (SPEC section 9)."""
        if target_id == caller.plugin_id:
            raise ServiceError(f"plugin {target_id!r} cannot run a command of its own through the host")
        target = self._table.get(target_id)
        require_declared(target.manifest, command)
        permitted = partial(caller.require, Permission.EXECUTE_COMMANDS, f"{target_id}:{command}")
        self._in_time(caller.plugin_id, "a permission check", frame, permitted)
        if frame.depth >= self._max_depth:
            raise DepthLimitExceeded(target_id, self._max_depth)
        record, note = frame.chain.record, caller.note
        effects, deliveries = record.effect_count, record.delivery_count
        try:
            data = finish(self.command(target, command, params, frame.nested()))
        except PluginError as error:
            # What the target kept in memory is an effect, too, unless it went with its worker.
            is_kept = record.delivery_count > deliveries and not error.is_cut_short
            if is_kept or record.effect_count > effects:
                note.is_certain = False
            if isinstance(error, PermissionDenied):  # the target's word; what a rule refused it is in the record
                raise CommandError(target_id, error.message, error.code) from error
            raise
        note.is_certain = True
        return data

    def emit(self, plugin_id: str, event_json: str, frame: Frame) -> None:
        """Hand the host an event of the plugin's. Raises CallTimeout when the host's sink does not return in time, and
        CallCancelled."""
        self._in_time(
            plugin_id, "handing the host an event", frame, partial(self._services.emit, plugin_id, event_json)
        )

    def _in_time(self, plugin_id: str, doing: str, frame: Frame, work: Callable[[], object]) -> None:
        try:
            bounded(self._services, frame, work)
        except Silence:
            raise CallTimeout(plugin_id, doing, frame.deadline.timeout_seconds) from None
        except Gone:  # what becomes of the call is decided where its worker is looked at
            raise CallCancelled(plugin_id, doing) from None

    def is_token_cancelled(self, plugin_id: str, token: str) -> bool:
        return self._table.is_token_cancelled(plugin_id, token)

    def _lost(self, worker: Worker, plugin_id: str, doing: str, frame: Frame, end: Exception) -> _WorkerLost:
        """The worker is dead or has to die: kill it, and say why in the caller's terms."""
        worker.process.kill()
        if frame.chain.is_cancelled:
            error = SupervisorClosed(plugin_id) if self.gate.is_closing else CallCancelled(plugin_id, doing)
            return _WorkerLost(error, ExitReason.CANCELLED, f"{doing} was cancelled")
        match end:
            case Silence():
                seconds = frame.deadline.timeout_seconds
                # A caller that grants less than the default may simply have been impatient.
                is_own_fault = seconds >= self._call_timeout_seconds
                reason = ExitReason.OVERRUN if is_own_fault else ExitReason.SHORT_DEADLINE
                timeout = CallTimeout(plugin_id, doing, seconds)
                return _WorkerLost(timeout, reason, f"{doing} took longer than {seconds:g} s")
            case GuestAbort():
                return _WorkerLost(GuestTrap(plugin_id, doing, str(end)), ExitReason.TRAP, f"{doing}: {end}")
            case Exceeded():
                what = f"plugin {plugin_id!r}, {doing}: {end.what}"
                limit = ResourceLimitExceeded(plugin_id, what, end.figure, end.bound, key=end.key, is_cut_short=True)
                return _WorkerLost(limit, ExitReason.LIMIT, limit.message)
            case Breach():
                cause = f"destroyed, {end}"
                breach = WorkerCrashed(plugin_id, cause, reason=CrashReason.PROTOCOL_BREACH)
                return _WorkerLost(breach, ExitReason.BREACH, cause)
            case _:
                status = worker.process.exit_status()
                loss = Loss.of(status, f"during {doing}")
                return _WorkerLost(status.crash(plugin_id, f"during {doing}"), loss.reason, loss.text)


def _attempt(work: Callable[[Frame], Steps[_T]], frame: Frame, strict: bool) -> Steps[_T]:
    """``strict``: a refusal anywhere in the call is what the caller hears, also when the guest passed over it, or ended
    otherwise afterwards. That the call was ended from outside is heard all the same."""
    record = frame.chain.record
    record.attempts += 1
    try:
        answer = yield from work(frame)
    except (CallCancelled, SupervisorClosed):
        raise
    except PluginError as error:
        if strict and record.denial_count:
            raise _first_denial(record) from error
        raise
    if strict and record.denial_count:
        raise _first_denial(record)
    return answer


def _is_not_of_the_input(crash: WorkerCrashed) -> bool:
    """The worker was killed by somebody, or has used up the CPU time of its life.

    By a person or a program of this machine: nothing that a guest computes ends in SIGKILL, except by the kernel for
    want of memory, which is another reason. Many commands have no parameters, and so always the same input; two signals
    from elsewhere must not set such a one aside for good."""
    is_killed_by_somebody = crash.reason is CrashReason.SIGNAL and crash.signal == signal.SIGKILL
    return is_killed_by_somebody or crash.reason is CrashReason.CPU_TIME


def _first_denial(record: CallRecord) -> PermissionDenied:
    first = record.denials[0]
    return PermissionDenied(first.plugin_id, first.reason, permission=first.permission, target=first.target)


def _failure(plugin_id: str, export: str, doing: str, failed: Failed) -> Exception:
    match failed.kind:
        case FailureKind.MISSING:
            return CommandNotFound(plugin_id, export)
        case FailureKind.GUEST:
            return CommandError(plugin_id, failed.text or f"{doing} failed without a reason")
    first_line, _, _ = failed.text.partition("\n")
    trap = GuestTrap(plugin_id, doing, failed.text)
    return _WorkerLost(trap, ExitReason.TRAP, f"{doing}: {clip(first_line, 200)}")
