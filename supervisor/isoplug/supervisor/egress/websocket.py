"""One WebSocket over aiohttp. The third door to aiohttp.

No exception of aiohttp's leaves here, not even as a cause: their texts and attributes hold the URL, and the URL may
hold a token.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, suppress

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
                timeout=aiohttp.ClientWSTimeout(ws_close=_GOODBYE_SECONDS),
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
        """The next message. Answers pings on the way."""
        try:
            message = await self._peer.receive()
        except _LOST:
            raise ServiceError("the connection broke") from None
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
        try:
            if isinstance(message, bytes):
                await self._peer.send_bytes(message)
            else:
                await self._peer.send_str(message)
        except _LOST:
            raise ServiceError("the connection broke") from None

    async def ping(self) -> None:
        try:
            await self._peer.ping()
        except _LOST:
            raise ServiceError("the connection broke") from None

    async def close(self) -> None:
        """Say goodbye, briefly; afterwards there is no socket, whatever the server does."""
        try:
            with suppress(TimeoutError, *_LOST):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._peer.close()
        finally:
            await self._session.aclose()  # shuts the socket down, whatever the server has not taken yet


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
