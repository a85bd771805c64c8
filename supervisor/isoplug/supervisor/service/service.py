"""The life of ``isoplug run``: start, serve, reload, drain, end.

``run`` goes through that life in order; signals and requests set events that it waits for. The supervisor's work runs
in threads, so the loop is always free to answer ``status``. Nothing here is tidied up for safety's sake: when this
process ends, in whatever way, the kernel ends the workers and frees the lock.

Signals: SIGTERM and SIGINT drain, a second one of them stops at once; SIGHUP reloads, unless it tells that the terminal
that this runs in has gone, which drains as well. Exit codes: 0 after a drain, 1 when it was stopped at once, 2 when it
could not start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from functools import partial
from typing import Any

from isoplug.shared.errors import PluginError
from isoplug.supervisor.aio import AsyncSupervisor
from isoplug.supervisor.assembly import existing_folder
from isoplug.supervisor.config import Config
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.service.changes import compare
from isoplug.supervisor.service.control import Control
from isoplug.supervisor.service.heartbeat import Heartbeat
from isoplug.supervisor.service.notify import Notifier
from isoplug.supervisor.service.place import Place
from isoplug.supervisor.service.requests import answer
from isoplug.supervisor.service.watch import FolderWatch
from isoplug.supervisor.state import state_dir_for

__all__ = ["Phase", "Service"]

_log = get_logger(__name__)

_DRAINED = 0
_STOPPED = 1

#: After a second signal, for the supervisor to end what it has; then the kernel does it.
_STOP_SECONDS = 3.0


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


class Service:
    """Made and run in one event loop, in the main thread of a process of its own.

    ``load`` reads the configuration, here and at each reload. Raises SetupError.
    """

    def __init__(self, load: Callable[[], Config]) -> None:
        self._load = load
        self.config = load()
        plugins = existing_folder(self.config.plugins_dir, "plugins_dir")
        workspace = existing_folder(self.config.workspace, "workspace")
        self.state_dir = state_dir_for(workspace, plugins, self.config.state_dir)
        self.supervisor = AsyncSupervisor(config=self.config)
        self.phase = Phase.STARTING
        self.calls = 0
        self._started_at = time.monotonic()
        self._notifier = Notifier()
        self._heartbeat = Heartbeat(self._notifier, self.supervisor)
        self._watch: FolderWatch | None = None
        self._had_terminal = os.isatty(2)
        self._is_asked_to_end = asyncio.Event()
        self._is_asked_to_stop = asyncio.Event()
        self._is_asked_to_reload = asyncio.Event()
        self._is_folder_changed = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._reloading = asyncio.Lock()

    # --- for requests ---------------------------------------------------------------------------------------------

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started_at

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around a call, for the status."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    async def drain(self) -> None:
        """Begin to end, and return when everything has ended."""
        _log.info("service.asked_to_end", cause="a request")
        self._is_asked_to_end.set()
        await self._has_ended.wait()

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again, then look at the plugins folder again; a report. Raises SetupError when the
        configuration cannot be used, and then changes nothing."""
        async with self._announced():
            wanted = await asyncio.to_thread(self._load)
            changes = compare(self.config, wanted)
            if changes.applied:
                self.config = self.config.override(service=wanted.service)
                await self._set_watch(self.config.service.watch)
            _log.info("service.configured", applied=changes.applied, needs_restart=changes.needs_restart)
            return {**await self._reload_plugins(force=True), "config": changes.to_json()}

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the lock to the exit code. Raises SetupError."""
        async with AsyncExitStack() as cleanup:
            place = Place.take(self.state_dir)
            cleanup.callback(place.close)
            self._handle_signals()
            control = Control(place.listen(), partial(answer, self))
            await control.start()
            cleanup.push_async_callback(control.close)
            await self._set_watch(self.config.service.watch)
            cleanup.push_async_callback(self._set_watch, "off")
            await self._start()
            async with _beside(self._heartbeat.beat()), _beside(self._follow_folder()), _beside(self._follow_signals()):
                await self._is_asked_to_end.wait()
                await self._end()
        return _STOPPED if self._is_asked_to_stop.is_set() else _DRAINED

    async def _start(self) -> None:
        _log.info("service.starting", pid=os.getpid(), state=str(self.state_dir))
        starting = asyncio.create_task(self.supervisor.start())
        async with _beside(self._is_asked_to_end.wait()) as ending, _beside(self._is_asked_to_stop.wait()) as stopping:
            await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
            bound = self.config.calls.shutdown_timeout
            await asyncio.wait([starting, stopping], timeout=bound, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # a load cannot be cut short, and nobody has been promised anything yet
            _log.warning("service.ended", phase=self.phase.value)
            os._exit(_STOPPED if self._is_asked_to_stop.is_set() else _DRAINED)
        await starting
        self.phase = Phase.RUNNING
        status = await self._heartbeat.status_line()
        self._notifier.ready(status)
        _log.info("service.ready", status=status)

    async def _end(self) -> None:
        self.phase = Phase.DRAINING
        self._notifier.stopping(f"draining, calls in progress: {self.calls}")
        _log.info("service.draining", calls=self.calls, timeout_seconds=self.config.calls.shutdown_timeout)
        closing = asyncio.create_task(self.supervisor.close())
        async with _beside(self._is_asked_to_stop.wait()) as stopping:
            await asyncio.wait([closing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not closing.done():
            await self._stop(closing)
        await closing
        self._has_ended.set()
        _log.info("service.ended", uptime_seconds=round(self.uptime_seconds, 1))

    async def _stop(self, closing: asyncio.Task[None]) -> None:
        _log.warning("service.stopping_at_once", calls=self.calls)
        hurrying = asyncio.create_task(self.supervisor.close(timeout=0))
        await asyncio.wait([closing, hurrying], timeout=_STOP_SECONDS, return_when=asyncio.ALL_COMPLETED)
        if not closing.done():
            os._exit(_STOPPED)
        await hurrying

    # --- signals --------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)

    def _on_end(self, cause: str) -> None:
        _log.info("service.asked_to_end", cause=cause)
        if self._is_asked_to_end.is_set():
            self._is_asked_to_stop.set()
        self._is_asked_to_end.set()

    def _on_hang_up(self) -> None:
        if self._had_terminal and not os.isatty(2):
            _forget_terminal()
            self._on_end("the terminal has gone")
        else:
            self._is_asked_to_reload.set()

    async def _follow_signals(self) -> None:
        while await self._is_asked_to_reload.wait():
            self._is_asked_to_reload.clear()
            with suppress(PluginError):  # logged
                await self.reload()

    # --- plugins --------------------------------------------------------------------------------------------------

    async def _follow_folder(self) -> None:
        while await self._is_folder_changed.wait():
            self._is_folder_changed.clear()
            with suppress(PluginError):  # logged
                async with self._announced():
                    await self._reload_plugins()

    async def _set_watch(self, how: str) -> None:
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
            self._watch = None
        if how != "off" and self.config.plugins_dir is not None:
            loop = asyncio.get_running_loop()

            def tell() -> None:
                loop.call_soon_threadsafe(self._is_folder_changed.set)

            self._watch = FolderWatch(self.config.plugins_dir, tell, is_polling=how == "poll")
            self._watch.start()

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[None]:
        """One reload at a time, announced to the service manager, its failure logged."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                yield
            except PluginError as error:
                _log.error("service.reload_failed", code=error.code, reason=str(error))
                raise
            finally:
                self._notifier.ready(await self._heartbeat.status_line())

    async def _reload_plugins(self, *, force: bool = False) -> dict[str, Any]:
        """``force``: somebody asks, so what was refused before is tried again."""
        report = await self.supervisor.reload(force=force)
        changed = {name: ids for name, ids in report.to_json().items() if ids and name != "refused"}
        # What was refused has been logged by the supervisor, with the reason.
        _log.info("service.reloaded", **changed, refused=tuple(report.refused))
        return report.to_json()


def _forget_terminal() -> None:
    """What is still written there would fail once more when the interpreter ends, and turn the exit code into 120."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 2)
    os.close(nowhere)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """``work`` in a task that ends with the context at the latest; its own failure is raised there."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
