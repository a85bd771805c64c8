"""Runs calls: gate, lease, exchange, bookkeeping. The one place where a worker's fate is decided."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any, TypeVar

from isoplug.shared.errors import (
    CallCancelled,
    CallTimeout,
    CommandError,
    CommandNotFound,
    DepthLimitExceeded,
    GuestTrap,
    PluginError,
    ResourceLimitExceeded,
    ServiceError,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, FailureKind
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.calls.commands import decode_answer, encode_request, require_declared
from isoplug.supervisor.calls.exchange import exchange
from isoplug.supervisor.calls.frame import Frame
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.host import HOST_FUNCTIONS, GuestAbort, HostContext, Services
from isoplug.supervisor.permissions import Permission
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.pool import Chain, LeaseBook, Worker
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.websockets import WorkerReplaced

__all__ = ["CallRunner"]

_T = TypeVar("_T")


class _WorkerLost(Exception):
    """A call ended and took its worker with it: what the caller gets, the cause in a few words for the status, and
    whether it is the plugin's fault."""

    def __init__(self, error: PluginError, cause: str, *, counts: bool) -> None:
        super().__init__(cause)
        self.error, self.cause, self.counts = error, cause, counts


class CallRunner:
    """Thread-safe. Calls run in their caller's thread from beginning to end."""

    def __init__(
        self, table: PluginTable, services: Services, book: LeaseBook, *, call_timeout_seconds: float, max_depth: int
    ) -> None:
        self._table = table
        self._services = services
        self._book = book
        self._call_timeout_seconds = call_timeout_seconds
        self._max_depth = max_depth
        self._gate_lock = threading.Lock()
        self._gate = threading.Condition(self._gate_lock)
        self._is_closing = False
        self._chains: set[Chain] = set()

    # --- the gate: calls from outside -----------------------------------------------------------------------------

    def new_chain(self) -> Chain:
        return Chain(self._book)

    def deadline(self, timeout_seconds: float | None) -> Deadline:
        """None means the configured default. Raises InvalidArgument."""
        return Deadline.after(self._call_timeout_seconds if timeout_seconds is None else timeout_seconds)

    def open_frame(
        self, deadline: Deadline, offered_files: Mapping[str, bytes] | None = None, chain: Chain | None = None
    ) -> _OpenFrame:
        """Context manager: a call from outside, depth 0. Entering raises SupervisorClosed."""
        return _OpenFrame(self, Frame(chain or self.new_chain(), deadline, 0, offered_files or {}))

    def let_in(self, chain: Chain) -> None:
        with self._gate_lock:
            if self._is_closing:
                raise SupervisorClosed
            self._chains.add(chain)

    def let_out(self, chain: Chain) -> None:
        with self._gate_lock:
            self._chains.discard(chain)
            if self._is_closing:
                self._gate.notify_all()

    def drain(self, deadline: Deadline) -> None:
        """Let no new call in, wait for those that are in, cancel what is left at the deadline."""
        with self._gate:
            self._is_closing = True
            self._gate.wait_for(lambda: not self._chains, deadline.remaining_seconds())
            leftovers = tuple(self._chains)
        for chain in leftovers:
            chain.cancel()

    # --- calls ----------------------------------------------------------------------------------------------------

    def command(self, plugin: Plugin, command: str, params: Any, frame: Frame) -> Any:
        """A declared command through ``handle_command``; its data, or a typed error."""
        require_declared(plugin.manifest, command)
        request = encode_request(command, params)
        try:
            output = self.call(plugin, "handle_command", request, frame, doing=f"command {command!r}")
        except CommandNotFound:
            raise CommandNotFound(plugin.id, command) from None  # declared, but the guest has no handle_command
        return decode_answer(plugin.id, command, output)

    def call(
        self,
        plugin: Plugin,
        export: str,
        data: bytes,
        frame: Frame,
        doing: str | None = None,
        instance: int | None = None,
    ) -> bytes:
        """One call in a leased worker; ``doing`` says in messages what it is, by default the export. ``instance``: only
        in this one, see ``Pool.instance``; WorkerReplaced is raised instead of calling another.

        Raises what SPEC section 11 lists; afterwards the worker is back or replaced.
        """
        plugin.counters.begin()
        try:
            return self._call_leased(plugin, export, data, frame, doing, instance)
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
        try:
            return self._call_in(worker, plugin_id, export, data, frame, services or self._services)
        except _WorkerLost as lost:
            raise lost.error from None

    # --- inside ---------------------------------------------------------------------------------------------------

    def _call_leased(
        self, plugin: Plugin, export: str, data: bytes, frame: Frame, doing: str | None, instance: int | None
    ) -> bytes:
        try:
            lease = plugin.pool.acquire(frame.chain, frame.deadline, frame.depth)
        except CallCancelled:
            if self._is_closing:  # it was ``drain`` that cancelled it
                raise SupervisorClosed(plugin.id) from None
            raise
        if instance is not None and instance != plugin.pool.instance:
            lease.release()
            raise WorkerReplaced
        try:
            output = self._call_in(lease.worker, plugin.id, export, data, frame, self._services, doing)
        except _WorkerLost as lost:
            lease.discard(lost.cause, counts=lost.counts)
            raise lost.error from None
        except PluginError:  # the guest said no, in good order
            lease.release()
            raise
        except BaseException:  # an interrupt of the caller's thread, in the middle of an exchange
            lease.discard("its caller was interrupted", counts=False)
            raise
        lease.release()
        return output

    def _call_in(
        self,
        worker: Worker,
        plugin_id: str,
        export: str,
        data: bytes,
        frame: Frame,
        services: Services,
        doing: str | None = None,
    ) -> bytes:
        if len(data) > self._services.frame_bytes:
            raise ResourceLimitExceeded(
                plugin_id, "the size of the input in bytes", len(data), self._services.frame_bytes, "see limits.frame"
            )
        serve = _HostCalls(self, Caller(plugin_id, frame.deadline, worker.process.watch), frame, services)
        outer = frame.chain.enter(worker)
        try:
            outcome = exchange(worker, export, data, frame.deadline, serve)
        except (Silence, Gone, Breach, GuestAbort) as end:
            raise self._lost(worker, plugin_id, doing or f"export {export!r}", frame, end) from None
        finally:
            frame.chain.leave(outer)
        if frame.chain.is_cancelled:  # while the result was on its way: the worker is dead, or about to be
            raise self._lost(worker, plugin_id, doing or f"export {export!r}", frame, Gone())
        if isinstance(outcome, Failed):
            raise _failure(plugin_id, export, doing or f"export {export!r}", outcome)
        return outcome.output

    def run_nested(self, caller: HostContext, target_id: str, command: str, params: Any, frame: Frame) -> Any:
        """``host_plugin_command`` (SPEC section 9)."""
        if target_id == caller.plugin_id:
            raise ServiceError(f"plugin {target_id!r} cannot run a command of its own through the host")
        target = self._table.get(target_id)
        require_declared(target.manifest, command)
        permitted = partial(caller.require, Permission.EXECUTE_COMMANDS, f"{target_id}:{command}")
        try:
            _bounded(caller.services, frame.deadline, permitted)
        except Silence:
            raise CallTimeout(caller.plugin_id, "a permission check", frame.deadline.timeout_seconds) from None
        if frame.depth >= self._max_depth:
            raise DepthLimitExceeded(target_id, self._max_depth)
        return self.command(target, command, params, frame.nested())

    def is_token_cancelled(self, plugin_id: str, token: str) -> bool:
        return self._table.is_token_cancelled(plugin_id, token)

    def _lost(self, worker: Worker, plugin_id: str, doing: str, frame: Frame, end: Exception) -> _WorkerLost:
        """The worker is dead or has to die: kill it, and say why in the caller's terms."""
        worker.process.kill()
        if frame.chain.is_cancelled:
            error = SupervisorClosed(plugin_id) if self._is_closing else CallCancelled(plugin_id, doing)
            return _WorkerLost(error, f"{doing} was cancelled", counts=False)
        match end:
            case Silence():
                seconds = frame.deadline.timeout_seconds
                # A caller that grants less than the default may simply have been impatient.
                is_own_fault = seconds >= self._call_timeout_seconds
                timeout = CallTimeout(plugin_id, doing, seconds)
                return _WorkerLost(timeout, f"{doing} took longer than {seconds:g} s", counts=is_own_fault)
            case GuestAbort():
                return _WorkerLost(GuestTrap(plugin_id, doing, str(end)), f"{doing}: {end}", counts=False)
            case Breach():
                cause = f"destroyed, {end}"
                return _WorkerLost(WorkerCrashed(plugin_id, cause), cause, counts=True)
            case _:
                status = worker.process.exit_status()
                crash = WorkerCrashed(plugin_id, str(status), signal=status.signal, exit_code=status.exit_code)
                return _WorkerLost(crash, f"{status} during {doing}", counts=True)


class _OpenFrame:
    """A class, not a generator: entering and leaving is on the path of every call."""

    __slots__ = ("_frame", "_runner")

    def __init__(self, runner: CallRunner, frame: Frame) -> None:
        self._runner, self._frame = runner, frame

    def __enter__(self) -> Frame:
        self._runner.let_in(self._frame.chain)
        return self._frame

    def __exit__(self, *_: object) -> None:
        self._runner.let_out(self._frame.chain)


class _HostCalls:
    """Answers the host calls of one call: who calls, how deep and until when are fixed here. Many calls make none, so
    the context is built for the first one."""

    __slots__ = ("_caller", "_context", "_frame", "_runner", "_services")

    def __init__(self, runner: CallRunner, caller: Caller, frame: Frame, services: Services) -> None:
        self._runner, self._caller, self._frame, self._services = runner, caller, frame, services
        self._context: HostContext | None = None

    def __call__(self, function: str, payload: bytes) -> bytes:
        known = HOST_FUNCTIONS.get(function)
        if known is None:
            raise Breach("it called a host function that it was not given")
        if self._context is None:
            self._context = self._make_context()
        if function == "host_plugin_command":  # keeps the deadline itself, and its stack is the call chain
            answer = known.run(self._context, payload)
        else:
            answer = _bounded(self._services, self._frame.deadline, partial(known.run, self._context, payload))
        if self._frame.chain.is_cancelled:
            raise Gone  # killed, or about to be: a cancelled chain goes no further
        return answer

    def _make_context(self) -> HostContext:
        runner, caller, frame = self._runner, self._caller, self._frame
        context = HostContext(
            caller=caller,
            services=self._services,
            offered_files=frame.offered_files,
            is_cancelled=lambda token: frame.chain.is_cancelled or runner.is_token_cancelled(caller.plugin_id, token),
            run_command=lambda target, command, params: runner.run_nested(context, target, command, params, frame),
        )
        return context


def _bounded(services: Services, deadline: Deadline, work: Callable[[], _T]) -> _T:
    """``work()``; where a service may block, in a thread that is left behind at the deadline. Raises Silence, and what
    ``work`` raises."""
    if not services.may_block:
        return work()
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  carried over to the caller's thread
            done.set_exception(error)

    try:
        threading.Thread(target=run, name="isoplug-service", daemon=True).start()
    except RuntimeError as error:
        raise GuestAbort(f"the host could not answer: {error}") from error
    try:
        return done.result(deadline.remaining_seconds())
    except FutureTimeout:
        raise Silence from None


def _failure(plugin_id: str, export: str, doing: str, failed: Failed) -> Exception:
    match failed.kind:
        case FailureKind.MISSING:
            return CommandNotFound(plugin_id, export)
        case FailureKind.GUEST:
            return CommandError(plugin_id, failed.text or f"{doing} failed without a reason")
        case FailureKind.LIMIT:
            error: PluginError = ResourceLimitExceeded(plugin_id, failed.text)
        case _:
            error = GuestTrap(plugin_id, doing, failed.text)
    first_line, _, _ = failed.text.partition("\n")
    return _WorkerLost(error, f"{doing}: {clip(first_line, 200)}", counts=False)
