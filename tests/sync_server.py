"""A real WebSocket server on loopback for the tests, driven step by step from the test's own thread."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from conftest import WAIT_SECONDS

__all__ = ["Peer", "SyncServer", "reserved_port", "sync_server", "upgraded"]


class Peer:
    """The server's end of one connection. What it waits for comes within ``WAIT_SECONDS``, or the test fails."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.path = request.path
        self.query = dict(request.query)
        self.pings = 0
        self.close_code: int | None = None
        self.ended = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._transport: Any = request.transport
        self._socket = socket
        self._received: queue.Queue[bytes | str] = queue.Queue()

    def send(self, *messages: bytes | str) -> None:
        """Returns when the kernel has taken them, or raises TimeoutError."""
        for message in messages:
            self.start_sending(message).result(WAIT_SECONDS)

    def start_sending(self, message: bytes | str) -> Any:
        work = self._socket.send_bytes(message) if isinstance(message, bytes) else self._socket.send_str(message)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def receive(self) -> bytes | str:
        return self._received.get(timeout=WAIT_SECONDS)

    @property
    def has_received(self) -> bool:
        return not self._received.empty()

    def close(self, code: int = WSCloseCode.OK) -> None:
        asyncio.run_coroutine_threadsafe(self._socket.close(code=code), self._loop).result(WAIT_SECONDS)

    def drop(self) -> None:
        """Without a goodbye."""
        self._loop.call_soon_threadsafe(self._transport.abort)

    async def relay(self) -> None:
        try:
            async for message in self._socket:
                if message.type is WSMsgType.PING:
                    self.pings += 1
                    await self._socket.pong(message.data)
                elif message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                    self._received.put(message.data)
        finally:
            self.close_code = self._socket.close_code
            self.ended.set()


class SyncServer:
    """``status`` other than 101: upgrades are refused with it."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 101
        self.attempts = 0
        self.now_open = 0
        self.most_open = 0
        self._peers: queue.Queue[Peer] = queue.Queue()

    def url(self, scheme: str = "http", host: str = "localhost") -> str:
        return f"{scheme}://{host}:{self.port}"

    def accept(self) -> Peer:
        """The next connection."""
        return self._peers.get(timeout=WAIT_SECONDS)

    @property
    def has_another(self) -> bool:
        return not self._peers.empty()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.attempts += 1
        if self.status != 101:
            return web.Response(status=self.status)
        socket = web.WebSocketResponse(autoping=False, max_msg_size=0, timeout=1.0)
        await socket.prepare(request)
        peer = Peer(request, socket)
        self.now_open += 1
        self.most_open = max(self.most_open, self.now_open)
        self._peers.put(peer)
        try:
            await peer.relay()
        finally:
            self.now_open -= 1
        return socket


@contextmanager
def reserved_port() -> Iterator[int]:
    """One where nobody listens, for a server that comes later: until then the kernel gives it to nobody else."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # two may be bound, as long as none listens
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def sync_server(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[SyncServer]:
    """``port``: one that is known already, for a server that comes later or comes back."""
    server = SyncServer()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True, ssl_context=tls)
        await site.start()
        server.port = runner.addresses[0][1]
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(WAIT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def upgraded(head: bytes) -> bytes:
    """What a server answers to the request for an upgrade, for tests that go on with bytes of their own."""
    key = next(line[19:] for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key: "))
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    lines = ("HTTP/1.1 101 Yes", "Upgrade: websocket", "Connection: Upgrade")
    accept = f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}"
    return "\r\n".join((*lines, accept, "", "")).encode()
