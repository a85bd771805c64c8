"""One WebSocket over aiohttp. The third door to aiohttp.

No exception of aiohttp's leaves here, not even as a cause: their texts and attributes hold the URL, and the URL may
hold a token.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
from yarl import URL

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress.addresses import AddressPolicy
from isoplug.supervisor.egress.lookup import Lookups
from isoplug.supervisor.egress.session import open_session
from isoplug.supervisor.egress.url import HttpUrl

__all__ = ["AiohttpSocket", "dial"]

#: How long the goodbye may take before the connection is cut off.
_GOODBYE_SECONDS = 1.0
#: What one ping or pong costs its connection in time to read on. Servers send one in half a minute; one that sends them
#: as fast as it can would otherwise keep the loop, which is everybody's, busy with answers.
_CONTROL_SECONDS = 0.01
_CLOSE_FRAME = struct.pack("!H", aiohttp.WSCloseCode.OK)

_CONTROL = (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG)
_LOST = (aiohttp.ClientError, OSError, RuntimeError)  # RuntimeError: the transport was closed in the meantime


async def dial(
    url: str, policy: AddressPolicy, lookups: Lookups, max_message_bytes: int, silence_seconds: float
) -> AiohttpSocket:
    """A WebSocket to ``url`` (``ws`` or ``wss``), which gets the same checks as any request. Cancel it to give up.

    When what was sent stays unacknowledged for ``silence_seconds``, the kernel ends the connection, so whoever pings
    now and then notices a server that is gone. Waiting for pongs could not tell that from a large message on a slow
    line. Raises ServiceError.
    """
    location = HttpUrl.parse("http" + url.removeprefix("ws"))
    policy.require_literal(location.host)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(location.host, policy, lookups))
        try:
            peer = await session.ws_connect(
                URL(url, encoded=True),
                autoclose=False,
                autoping=False,
                max_msg_size=max_message_bytes + 1,  # aiohttp refuses what is as large as its bound
            )
            line: socket.socket | None = peer.get_extra_info("socket")
            if line is None:
                raise ConnectionResetError  # the server has closed it already
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_seconds * 1000))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServiceError(_why_refused(error)) from None
        return AiohttpSocket(stack.pop_all(), peer)


class AiohttpSocket:
    """A WebSocket that stands. Methods raise ServiceError when it is lost; the text says why."""

    def __init__(self, session: AsyncExitStack, peer: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._peer = peer

    async def receive(self) -> bytes | str:
        """The next message. Answers pings on the way. Each takes at least one turn of the loop, also when a thousand
        lie there already: it is everybody's loop."""
        while (message := await self._next()).type in _CONTROL:
            if message.type is aiohttp.WSMsgType.PING:
                await self._send_frame(message.data, aiohttp.WSMsgType.PONG)
            await asyncio.sleep(_CONTROL_SECONDS)
        await asyncio.sleep(0)
        match message.type:
            case aiohttp.WSMsgType.BINARY | aiohttp.WSMsgType.TEXT:
                data: bytes | str = message.data
                return data
            case aiohttp.WSMsgType.CLOSE:
                raise ServiceError(f"the server closed it with code {message.data}")
            case aiohttp.WSMsgType.ERROR if self._peer.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                raise ServiceError("the server sent a message beyond websockets.message")
            case aiohttp.WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                raise ServiceError(f"the server broke the protocol (code {message.data.code})")
            case _:
                raise ServiceError("the connection broke")

    async def send(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            await self._send_frame(message, aiohttp.WSMsgType.BINARY)
        else:
            await self._send_frame(message.encode(), aiohttp.WSMsgType.TEXT)

    async def ping(self) -> None:
        await self._send_frame(b"", aiohttp.WSMsgType.PING)

    async def close(self) -> None:
        """Say goodbye, briefly; afterwards there is no socket, whatever the server does. The server's goodbye is not
        waited for: aiohttp would read all that comes before it, without a turn of the loop for anybody else."""
        try:
            with suppress(TimeoutError, ServiceError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._send_frame(_CLOSE_FRAME, aiohttp.WSMsgType.CLOSE)
        finally:
            await self._session.aclose()  # shuts the socket down, whatever the server has not taken yet

    async def _next(self) -> Any:
        try:
            return await self._peer.receive()
        except _LOST:
            raise ServiceError("the connection broke") from None

    async def _send_frame(self, data: bytes, kind: aiohttp.WSMsgType) -> None:
        try:
            await self._peer.send_frame(data, kind)
        except _LOST:
            raise ServiceError("the connection broke") from None


def _why_refused(error: Exception) -> str:
    match error:
        case aiohttp.WSServerHandshakeError():
            return f"the server answered with status {error.status} instead of a WebSocket"
        case aiohttp.ClientConnectorCertificateError():
            return "the server's TLS certificate is not valid for its name, or nobody trusted here has signed it"
        case aiohttp.ClientSSLError():
            return "no TLS connection could be made"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno  # of the text nothing: asyncio writes the address into it
            return f"no connection could be made ({os.strerror(number) if number else 'no reason given'})"
        case _:
            return "the server closed the connection, or does not speak HTTP"
