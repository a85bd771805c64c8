"""The embedded WebSockets: each connection is kept up by a coroutine of the network loop until it is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from isoplug.shared.errors import PluginError, ServiceError
from isoplug.supervisor.egress import NetLoop, asking_plugin
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.websockets.outbox import Outbox
from isoplug.supervisor.websockets.protocol import Connection, Listener, Message, Socket, Target

__all__ = ["Dial", "KeptSockets", "SocketPolicy"]

_log = get_logger(__name__)

#: How long what was sent before a close may take to go out.
_LAST_WORDS_SECONDS = 0.5

#: Makes one connection to a URL; raises ServiceError.
Dial: TypeAlias = Callable[[str], Awaitable[Socket]]


@dataclass(frozen=True, slots=True)
class SocketPolicy:
    """``outbox_messages`` and ``outbox_bytes`` may wait to be sent. The delays are those of the reference host."""

    outbox_messages: int
    outbox_bytes: int
    ping_seconds: float = 30.0
    reconnect_initial_seconds: float = 1.0
    reconnect_max_seconds: float = 30.0
    #: For name, address, TLS and upgrade together.
    dial_seconds: float = 30.0

    def delays(self) -> Iterator[float]:
        """Seconds before each attempt after one that failed: 1.5 times the one before."""
        delay = self.reconnect_initial_seconds
        while True:
            yield min(delay, self.reconnect_max_seconds)
            delay = min(delay * 1.5, self.reconnect_max_seconds)


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """One plugin's connections: those that have not ended, and the lock that the one with a socket holds."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    living: set[_Kept] = field(default_factory=set)


class KeptSockets:
    """``WebSockets`` over the network loop. No connection is dialled before the plugin's old one is gone: a guest
    that connects in a loop has one socket.

    ``load_dial`` gives what dials; it is called in the thread of whoever connects, as it may have to import it.
    """

    def __init__(self, loop: NetLoop, load_dial: Callable[[], Dial], policy: SocketPolicy) -> None:
        self._loop = loop
        self._load_dial = load_dial
        self._policy = policy
        self._lock = threading.Lock()
        self._turns: dict[str, _Turns] = {}

    def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
        """See ``WebSockets.open``. Raises SupervisorClosed, and ServiceError when no thread can be had."""
        dial = self._load_dial()
        with self._lock:
            turns = self._turns.setdefault(plugin_id, _Turns())
            kept = _Kept(plugin_id, target, listener, dial, self._policy, turns)
            turns.living.add(kept)
        kept.gone.add_done_callback(lambda _: self._forget(plugin_id, kept))
        try:
            self._loop.spawn(kept.keep())
        except BaseException:
            kept.gone.set_result(None)
            raise
        return kept

    def _forget(self, plugin_id: str, kept: _Kept) -> None:
        with self._lock:
            turns = self._turns[plugin_id]
            turns.living.discard(kept)
            if not turns.living:
                del self._turns[plugin_id]


class _Kept:
    """One connection. ``send`` and ``close`` may be called from any thread, all else runs in the loop."""

    def __init__(
        self, plugin_id: str, target: Target, listener: Listener, dial: Dial, policy: SocketPolicy, turns: _Turns
    ) -> None:
        self.gone: Future[None] = Future()
        self._plugin_id = plugin_id
        self._target = target
        self._listener = listener
        self._dial = dial
        self._policy = policy
        self._turns = turns
        self._outbox = Outbox(policy.outbox_messages, policy.outbox_bytes)
        self._lock = threading.Lock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # both from the coroutine's start to its end
        self._task: asyncio.Task[None] | None = None
        self._to_send = asyncio.Event()
        self._is_down_told = False

    # --- from any thread ------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self._outbox.put(message)
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._to_send.set)

    def close(self, patience_seconds: float = 0.0) -> None:
        """Waits for the plugin's earlier connections as well."""
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
            if is_first and self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        if patience_seconds > 0:
            wait([kept.gone for kept in tuple(self._turns.living)], patience_seconds)

    # --- in the loop ----------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        asking_plugin.set(self._plugin_id)
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            is_closed = self._is_closed
        try:
            if not is_closed:
                async with self._turns.lock:
                    await self._keep_up()
        finally:
            with self._lock:
                self._loop = self._task = None
            self.gone.set_result(None)

    async def _keep_up(self) -> NoReturn:
        delays = self._policy.delays()
        while True:
            try:
                was_up = await self._connect_once()
            except Exception:  # noqa: BLE001  a fault of ours must not end the connection for good
                _log.exception("websocket.broken", plugin=self._plugin_id)
                await self._tell_down("internal error of the host")
                was_up = False
            if was_up:
                delays = self._policy.delays()
            await asyncio.sleep(next(delays))

    async def _connect_once(self) -> bool:
        """One attempt and, when it succeeds, the connection until its loss; says whether it succeeded."""
        try:
            async with asyncio.timeout(self._policy.dial_seconds):
                socket = await self._dial(self._target.url)
        except TimeoutError:
            await self._tell_down("it did not answer in time")
            return False
        except PluginError as error:
            await self._tell_down(str(error))
            return False
        try:
            self._is_down_told = False
            _log.info("websocket.connected", plugin=self._plugin_id, host=self._target.host)
            await _settled(self._listener.connected())
            reason = await self._serve(socket)
        except asyncio.CancelledError:  # it is closed: what was sent before still goes out
            await self._send_rest(socket)
            raise
        finally:
            await socket.close()
        await self._tell_down(reason)
        return True

    async def _tell_down(self, reason: str) -> None:
        """Once for each loss, not for each attempt that fails after it."""
        if self._is_down_told:
            return
        self._is_down_told = True
        _log.warning("websocket.down", plugin=self._plugin_id, host=self._target.host, reason=reason)
        await _settled(self._listener.disconnected())

    async def _serve(self, socket: Socket) -> str:
        """Until the connection is lost; answers why."""
        jobs = [asyncio.ensure_future(job) for job in (self._read(socket), self._write(socket), self._ping(socket))]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        error = next(iter(done)).exception()
        if not isinstance(error, ServiceError):
            raise error or RuntimeError("a job without end has ended")
        return str(error)

    async def _read(self, socket: Socket) -> NoReturn:
        while True:
            message = await socket.receive()
            # Nothing is read while there is no room, so the server's own buffers fill, and it waits: TCP's way.
            await _settled(self._listener.received(message))

    async def _write(self, socket: Socket) -> NoReturn:
        while True:
            message = self._outbox.take()
            if message is not None:
                await socket.send(message)
            else:
                await self._to_send.wait()
                self._to_send.clear()

    async def _send_rest(self, socket: Socket) -> None:
        with suppress(TimeoutError, ServiceError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                while (message := self._outbox.take()) is not None:
                    await socket.send(message)

    async def _ping(self, socket: Socket) -> NoReturn:
        """Whether anybody answers is the kernel's to notice (see egress/websocket.py)."""
        while True:
            await asyncio.sleep(self._policy.ping_seconds)
            await socket.ping()


async def _settled(room: Future[None]) -> None:
    if not room.done():
        await asyncio.wrap_future(room)
