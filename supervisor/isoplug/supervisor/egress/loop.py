"""The event loop of everything that talks to a network: one thread a supervisor, started by the first who needs it.

Callers are threads that serve a call; ``run`` gives them a coroutine's result, and cancels the coroutine when nobody
waits for it any more: at the deadline, when the worker that asked is dead, when the thread is interrupted. A cancelled
coroutine closes its socket before ``run`` returns.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from isoplug.shared.errors import ServiceError, SupervisorClosed
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress.protocol import NothingDone
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["NetLoop"]

_T = TypeVar("_T")
_log = get_logger(__name__)


class NetLoop:
    """Thread-safe. Nothing runs before the first ``run`` or ``spawn``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run(self, caller: Caller, work: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result. Raises what it raises, and ServiceError when the caller stops waiting first."""
        try:
            running = self.spawn(_while_awaited(caller, work))
        except BaseException:
            work.close()
            raise
        try:
            return running.result()
        except CancelledError:
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:  # the loop ended before it began
                work.close()
            raise SupervisorClosed(caller.plugin_id) from None
        except BaseException:  # an interrupt of the caller's thread
            running.cancel()
            raise

    def spawn(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a coroutine; ``close`` cancels it. Raises SupervisorClosed, and ServiceError when no thread can be
        had."""
        with self._lock:
            if self._is_closed:
                work.close()
                raise SupervisorClosed
            if self._loop is None:
                try:
                    self._start()
                except BaseException:
                    work.close()
                    raise
            assert self._loop is not None
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what runs and wait until it has cleaned up. Idempotent."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(loop,), name="isoplug-net", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending
            loop.close()
            raise ServiceError(f"the host cannot start its network thread: {error}") from error
        self._loop, self._thread = loop, thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException:  # the last one who can say so
        _log.exception("net_loop.failed")
        raise
    finally:
        loop.close()


async def _while_awaited(caller: Caller, work: Coroutine[Any, Any, _T]) -> _T:
    """Work that raises NothingDone when it is cancelled has the right to that."""
    loop = asyncio.get_running_loop()
    try:
        worker_fd = caller.watch()
    except BaseException:
        work.close()
        raise
    nobody_waits = loop.create_future()
    loop.add_reader(worker_fd, _resolve, nobody_waits)
    task = loop.create_task(work)
    try:
        patience_seconds = caller.deadline.remaining_seconds()
        await asyncio.wait({task, nobody_waits}, timeout=patience_seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        was_nothing_done = not task.cancelled() and isinstance(task.exception(), NothingDone)
        raise (NothingDone if was_nothing_done else ServiceError)(
            "the plugin's worker has ended" if nobody_waits.done() else "no answer within the time that was left",
            plugin_id=caller.plugin_id,
        )
    finally:
        loop.remove_reader(worker_fd)
        os.close(worker_fd)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
