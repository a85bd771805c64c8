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
from typing import Any, Self, TypeVar

from isoplug.shared.errors import PluginError, SupervisorClosed
from isoplug.supervisor.config import load_config
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.plugins.table import Plugin
from isoplug.supervisor.supervisor import OfferedFiles, Supervisor

__all__ = ["AsyncSupervisor"]

_T = TypeVar("_T")


class AsyncSupervisor:
    """``Supervisor`` for asyncio: the same arguments, the same methods as coroutines, the same errors.

        async with AsyncSupervisor(plugins_dir="plugins", workspace="journal") as supervisor:
            await supervisor.command("diaryx.daily", "today")

    Plugins are loaded by ``start`` (or by entering the context). At most ``calls.async_threads`` calls run at once,
    further ones wait for a thread within their deadline. Cancelling a task ends its call: the worker is killed and
    replaced.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._make: Callable[[], Supervisor] = partial(Supervisor, *args, **kwargs)
        self._supervisor: Supervisor | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._changing = asyncio.Lock()  # tasks that start or close at the same time share one supervisor

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """See ``Supervisor.from_config``."""
        return cls(config=load_config(Path(path)), **overrides)

    async def start(self) -> None:
        """Load the plugins. Raises SetupError. Idempotent."""
        async with self._changing:
            if self._supervisor is None:
                self._supervisor = await self._made()
                self._threads = ThreadPoolExecutor(self._supervisor.async_threads, "isoplug-async")

    async def close(self) -> None:
        """Drain and end everything, as ``Supervisor.close``. Idempotent."""
        async with self._changing:
            if self._supervisor is not None:
                await asyncio.to_thread(self._supervisor.close)
            if self._threads is not None:
                self._threads.shutdown(wait=False)
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

    async def command(
        self,
        plugin_id: str,
        command: str,
        params: Any = None,
        *,
        timeout: float | None = None,
        files: OfferedFiles | None = None,
    ) -> Any:
        """See ``Supervisor.command``."""
        supervisor = self._started()
        chain, deadline = supervisor.new_chain(), supervisor.deadline(timeout)
        call = partial(supervisor.command_in, chain, deadline, plugin_id, command, params, files)
        return await self._run(call, on_cancel=chain.cancel)

    async def call(
        self,
        plugin_id: str,
        export: str,
        data: bytes = b"",
        *,
        timeout: float | None = None,
        files: OfferedFiles | None = None,
    ) -> bytes:
        """See ``Supervisor.call``."""
        supervisor = self._started()
        chain, deadline = supervisor.new_chain(), supervisor.deadline(timeout)
        call = partial(supervisor.call_in, chain, deadline, plugin_id, export, data, files)
        return await self._run(call, on_cancel=chain.cancel)

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

    async def get_config(self, plugin_id: str) -> Any:
        """See ``Supervisor.get_config``."""
        return await self._run(partial(self._started().get_config, plugin_id))

    async def set_config(self, plugin_id: str, config: dict[str, Any]) -> None:
        """See ``Supervisor.set_config``."""
        await self._run(partial(self._started().set_config, plugin_id, config))

    async def cancel(self, plugin_id: str, token: str) -> None:
        """See ``Supervisor.cancel``."""
        self._started().cancel(plugin_id, token)

    async def reset(self, plugin_id: str) -> None:
        """See ``Supervisor.reset``."""
        self._started().reset(plugin_id)

    async def status(self) -> dict[str, PluginStatus]:
        """See ``Supervisor.status``."""
        return await self._run(self._started().status)

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

    async def _run(self, work: Callable[[], _T], on_cancel: Callable[[], None] | None = None) -> _T:
        if self._threads is None:
            raise SupervisorClosed
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            raise
