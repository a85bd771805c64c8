"""Answering the host calls of one call, within its deadline, and entering them into its record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from isoplug.supervisor.caller import Caller
from isoplug.supervisor.calls.frame import Frame
from isoplug.supervisor.host import HOST_FUNCTIONS, GuestAbort, HostContext, Note, Services
from isoplug.supervisor.pending import Pending
from isoplug.supervisor.pool.link import Breach, Gone, Silence

if TYPE_CHECKING:
    from isoplug.supervisor.calls.runner import CallRunner
    from isoplug.supervisor.pool import Worker

__all__ = ["HostCalls", "bounded"]

_T = TypeVar("_T")

#: Longest wait for a service of the host's own in one piece: nothing wakes it when nobody waits for it any more.
_SLICE_SECONDS = 0.1


class HostCalls:
    """Answers the host calls of one call: who calls, how deep and until when are fixed here. Many calls make none, so
    the context is built for the first one, and again when ``services`` are others."""

    __slots__ = ("_context", "_frame", "_plugin_id", "_runner", "_worker", "services")

    def __init__(self, runner: CallRunner, worker: Worker, plugin_id: str, frame: Frame, services: Services) -> None:
        self._runner, self._worker, self._plugin_id = runner, worker, plugin_id
        self._frame, self.services = frame, services
        self._context: HostContext | None = None

    def __call__(self, function: str, payload: bytes) -> bytes:
        known = HOST_FUNCTIONS.get(function)
        if known is None:
            raise Breach("it called a host function that it was not given")
        context = self._context
        if context is None or context.services is not self.services:
            context = self._context = self._make_context()
        note = context.note = Note(known.effect)
        try:
            if function == "host_plugin_command":  # keeps the deadline itself, and its stack is the call chain
                answer = known.run(context, payload)
            else:
                answer = bounded(self.services, self._frame, partial(known.run, context, payload))
        finally:
            if known.is_noted:
                note.enter(context.record, context.plugin_id, function)
        if self._frame.chain.is_cancelled:
            raise Gone  # killed, or about to be: a cancelled chain goes no further
        return answer

    def _make_context(self) -> HostContext:
        runner, plugin_id, frame = self._runner, self._plugin_id, self._frame
        context = HostContext(
            caller=Caller(plugin_id, frame.deadline, self._worker.process.watch),
            services=self.services,
            offered_files=frame.offered_files,
            is_cancelled=lambda token: frame.chain.is_cancelled or runner.is_token_cancelled(plugin_id, token),
            record=frame.chain.record,
            run_command=lambda target, command, params: runner.run_nested(context, target, command, params, frame),
        )
        return context


def bounded(services: Services, frame: Frame, work: Callable[[], _T]) -> _T:
    """``work()``; where a service may block, in a thread that is left behind at the deadline, or when the call is
    cancelled or its worker dies. That thread knows of the call what this one does (``call_deadline``). Raises Silence,
    Gone, and what ``work`` raises."""
    if not services.may_block:
        return work()
    done: Pending[_T] = Pending()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  carried over to the caller's thread
            done.set_exception(error)

    try:
        threading.Thread(target=copy_context().run, args=(run,), name="isoplug-service", daemon=True).start()
    except RuntimeError as error:
        raise GuestAbort(f"the host could not answer: {error}") from error
    while not frame.chain.is_lost:
        try:
            return done.result(min(frame.deadline.remaining_seconds(), _SLICE_SECONDS))
        except TimeoutError:
            if done.done():  # it raised one of its own
                raise
            if frame.deadline.has_passed:
                raise Silence from None
    raise Gone
