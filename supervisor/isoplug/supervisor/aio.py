"""The same façade, awaitable: the same code on a bounded pool of threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from isoplug.shared.errors import PluginError, SetupError, SupervisorClosed
from isoplug.shared.lockdown import Protection
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls import Cancellation, Poisoned, Steps
from isoplug.supervisor.config import Calls, load_config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.habits import Habits
from isoplug.supervisor.lookout import Lookout
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.on_loop import CallOnLoop
from isoplug.supervisor.plugins.table import Plugin
from isoplug.supervisor.reload import ReloadReport
from isoplug.supervisor.seats import Seats
from isoplug.supervisor.supervisor import OfferedFiles, Supervisor

__all__ = ["AsyncSupervisor"]

_T = TypeVar("_T")

#: Makes a call that has this deadline and can be cancelled, and pauses or begins in a thread.
_Begin: TypeAlias = Callable[[Deadline, Cancellation, bool], Steps[_T]]

#: Loading, unloading and the like, at once.
_CHANGES = 4
_LOOKS = 2


class AsyncSupervisor:
    """``Supervisor`` for asyncio: the same arguments, the same methods as coroutines, the same errors.

        async with AsyncSupervisor(plugins_dir="plugins", workspace="journal") as supervisor:
            await supervisor.command("diaryx.daily", "today")

    Plugins are loaded by ``start`` (or by entering the context). At most ``calls.async_threads`` calls run at once, of
    one plugin as many as it has workers, and one that waits for them; further ones wait within their deadline, at most
    ``calls.queue`` a plugin. Cancelling a task ends its call: the worker is killed and replaced.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._make: Callable[[], Supervisor] = partial(Supervisor, *args, **kwargs)
        self._supervisor: Supervisor | None = None
        self._threads: _Threads | None = None
        self._changing = asyncio.Lock()  # tasks that start or close at the same time share one supervisor

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """See ``Supervisor.from_config``."""
        return cls(config=load_config(Path(path)), **overrides)

    async def start(self) -> None:
        """Load the plugins. Raises SetupError. Idempotent."""
        async with self._changing:
            if self._supervisor is None:
                supervisor = await self._made()
                try:
                    self._threads = _Threads(supervisor.config.calls)
                except OSError as error:
                    await asyncio.to_thread(supervisor.close, 0)
                    raise SetupError(f"cannot watch the sockets of workers: {error}; free descriptors") from error
                self._supervisor = supervisor

    async def close(self, timeout: float | None = None) -> None:
        """Drain and end everything, as ``Supervisor.close``. Idempotent."""
        if timeout == 0 and self._supervisor is not None:  # also while another task closes, which has the lock
            await asyncio.to_thread(self._supervisor.close, 0)
        async with self._changing:
            if self._supervisor is not None:
                await asyncio.to_thread(self._supervisor.close, timeout)
            if self._threads is not None:  # only now: ``status`` answers while this closes, too
                self._threads.close()
                self._threads = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        return self._started().plugins

    @property
    def load_errors(self) -> Mapping[str, PluginError]:
        return self._started().load_errors

    @property
    def protection(self) -> Protection | None:
        """See ``Supervisor.protection``."""
        return self._started().protection

    async def command(
        self,
        plugin_id: str,
        command: str,
        params: Any = None,
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
    ) -> Any:
        """See ``Supervisor.command``."""
        supervisor = self._started()

        def begin(deadline: Deadline, cancellation: Cancellation, pauses: bool) -> Steps[Any]:
            if files or not pauses:  # files may have to be read
                yield None
            options = supervisor.call_options(deadline, files, retries, strict, record, cancellation, pauses)
            return (yield from supervisor.command_in_steps(plugin_id, command, params, options))

        return await self._call(plugin_id, command, timeout, begin)

    async def call(
        self,
        plugin_id: str,
        export: str,
        data: bytes = b"",
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
    ) -> bytes:
        """See ``Supervisor.call``."""
        supervisor = self._started()

        def begin(deadline: Deadline, cancellation: Cancellation, pauses: bool) -> Steps[bytes]:
            if files or not pauses:  # files may have to be read
                yield None
            options = supervisor.call_options(deadline, files, retries, strict, record, cancellation, pauses)
            return (yield from supervisor.call_in_steps(plugin_id, export, data, options))

        return await self._call(plugin_id, export, timeout, begin)

    async def emit(self, event_type: str, payload: Mapping[str, Any] | None = None) -> int:
        """See ``Supervisor.emit``."""
        return self._started().emit(event_type, payload)

    async def flush_events(self, timeout: float | None = None) -> bool:
        """See ``Supervisor.flush_events``."""
        return await self._run(partial(self._started().flush_events, timeout))

    async def load_plugin(
        self, wasm_path: str | os.PathLike[str], config_path: str | os.PathLike[str] | None = None
    ) -> Plugin:
        """See ``Supervisor.load_plugin``."""
        return await self._run(partial(self._started().load_plugin, wasm_path, config_path))

    async def unload(self, plugin_id: str) -> None:
        """See ``Supervisor.unload``."""
        await self._run(partial(self._started().unload, plugin_id))

    async def reload(self, *, force: bool = False) -> ReloadReport:
        """See ``Supervisor.reload``."""
        return await self._run(partial(self._started().reload, force=force))

    async def get_config(self, plugin_id: str) -> Any:
        """See ``Supervisor.get_config``."""
        return await self._call(plugin_id, "get_config", None, _waiting(partial(self._started().get_config, plugin_id)))

    async def set_config(self, plugin_id: str, config: dict[str, Any]) -> None:
        """See ``Supervisor.set_config``."""
        await self._call(
            plugin_id, "set_config", None, _waiting(partial(self._started().set_config, plugin_id, config))
        )

    async def cancel(self, plugin_id: str, token: str) -> None:
        """See ``Supervisor.cancel``."""
        self._started().cancel(plugin_id, token)

    async def reset(self, plugin_id: str) -> None:
        """See ``Supervisor.reset``."""
        self._started().reset(plugin_id)

    async def status(self) -> dict[str, PluginStatus]:
        """See ``Supervisor.status``."""
        return await self._look(self._started().status)

    async def poisoned(self, plugin_id: str | None = None) -> list[Poisoned]:
        """See ``Supervisor.poisoned``."""
        return self._started().poisoned(plugin_id)

    async def clear_poisoned(self, plugin_id: str, fingerprint: str | None = None) -> int:
        """See ``Supervisor.clear_poisoned``."""
        return self._started().clear_poisoned(plugin_id, fingerprint)

    async def _made(self) -> Supervisor:
        """A new supervisor. A thread cannot be cancelled, so one whose task was meanwhile is closed, not lost."""
        lock, made, is_given_up = threading.Lock(), list[Supervisor](), False

        def make() -> None:
            supervisor = self._make()
            with lock:
                made.append(supervisor)
                if not is_given_up:
                    return
            supervisor.close()

        try:
            await asyncio.to_thread(make)
        except asyncio.CancelledError:
            with lock:
                is_given_up = True
                unwanted = tuple(made)
            for supervisor in unwanted:
                supervisor.close()
            raise
        return made[0]

    def _started(self) -> Supervisor:
        if self._supervisor is None:
            raise SupervisorClosed
        return self._supervisor

    async def _call(self, plugin_id: str, what: str, timeout: float | Deadline | None, begin: _Begin[_T]) -> _T:
        """What ``begin`` makes, with a deadline and a cancellation, when it is the plugin's turn. Calls of which
        ``what`` is the same are expected to take the same course."""
        supervisor, threads = self._started(), self._running()
        deadline, cancellation = supervisor.deadline(timeout), Cancellation()
        workers = supervisor.config.of_plugin(plugin_id).workers
        seats = threads.seats()
        await seats.take(plugin_id, workers + 1, deadline)
        steps = begin(deadline, cancellation, not threads.habits.begins_in_thread(plugin_id, what))
        call = CallOnLoop(
            steps, deadline, cancellation, threads.lookout, threads.calls, partial(seats.give_back, plugin_id)
        )
        try:
            return await call.result()
        finally:
            if call.has_left_loop:
                threads.habits.left_loop(plugin_id, what)

    async def _run(self, work: Callable[[], _T]) -> _T:
        """What may wait for plugins."""
        return await asyncio.get_running_loop().run_in_executor(self._running().changes, work)

    async def _look(self, work: Callable[[], _T]) -> _T:
        """What never waits for one, and so is answered whatever they do."""
        return await asyncio.get_running_loop().run_in_executor(self._running().looks, work)

    def _running(self) -> _Threads:
        if self._threads is None:
            raise SupervisorClosed
        return self._threads


def _waiting(work: Callable[..., _T]) -> _Begin[_T]:
    """``work`` in a thread from its beginning."""

    def begin(deadline: Deadline, cancellation: Cancellation, _: bool) -> Steps[_T]:
        yield None
        return work(timeout=deadline, cancellation=cancellation)

    return begin


class _Threads:
    """Those of one supervisor. Calls have seats; whatever else is done has threads of its own."""

    def __init__(self, settings: Calls) -> None:
        self._settings = settings
        self.habits = Habits()
        self.lookout = Lookout()
        # Each loop has its own: one that has ended gives no seat back.
        self._seats: WeakKeyDictionary[asyncio.AbstractEventLoop, Seats] = WeakKeyDictionary()
        self.calls = ThreadPoolExecutor(settings.async_threads, "isoplug-async")
        self.changes = ThreadPoolExecutor(_CHANGES, "isoplug-change")
        self.looks = ThreadPoolExecutor(_LOOKS, "isoplug-look")

    def seats(self) -> Seats:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        seats = self._seats.get(loop)
        if seats is None:
            seats = self._seats[loop] = Seats(self._settings.async_threads, self._settings.queue)
        return seats

    def close(self) -> None:
        self.lookout.close()
        for executor in (self.calls, self.changes, self.looks):
            executor.shutdown(wait=False)
