"""A session of aiohttp that reaches one host, at addresses that were checked. The first door to aiohttp; importing it
takes a third of a second, so the first request does.

A session serves one exchange, or one WebSocket, and is closed with it: no connection, cookie or cache of one plugin is
there for another. Its resolver is ours, so there is no second look-up between check and connection; its sockets are
made by ``_socket_maker``, which every connection passes, also one to an address that stands in the URL.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress.addresses import AddressPolicy
from isoplug.supervisor.egress.lookup import Lookups

__all__ = ["open_session"]

#: Of an answer: one header, and how many. Browsers take 256 KiB in all; large content policies have 10 KiB.
_MAX_HEADER_BYTES = 16 * 1024
_MAX_HEADERS = 128
#: From one socket in one turn of the event loop. TLS has records of that size.
_MAX_READ_BYTES = 16 * 1024
#: Of the event loop, until it has noticed that a socket was shut down. It takes three.
_TURNS = 100


@asynccontextmanager
async def open_session(
    host: str, policy: AddressPolicy, lookups: Lookups, on_connected: Callable[[], None] = lambda: None
) -> AsyncIterator[aiohttp.ClientSession]:
    """``host`` as in ``HttpUrl``; requests to another one, redirects for example, raise ServiceError. No timeouts:
    whoever waits cancels. ``on_connected`` is called before the first byte of a request is sent. At the end the
    session's sockets are closed."""
    sockets: list[socket.socket] = []
    connector = aiohttp.TCPConnector(
        resolver=_Resolver(policy, lookups),
        socket_factory=_socket_maker(host, policy, sockets),
        use_dns_cache=False,
        force_close=True,
    )
    try:
        async with _session(connector, host, on_connected) as session:
            try:
                yield session
            finally:
                _shut_down(sockets)
    finally:
        await _closed(sockets)


def _session(connector: aiohttp.TCPConnector, host: str, on_connected: Callable[[], None]) -> aiohttp.ClientSession:
    async def tell(*_: object) -> None:
        on_connected()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(tell)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(),
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
        skip_auto_headers=("Content-Type",),
        headers={"User-Agent": "isoplug"},
        middlewares=(partial(_stay, host),),
        trace_configs=[trace],
    )


async def _stay(host: str, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    if request.url.raw_host != host:
        raise ServiceError(f"a redirect from {host!r} to another host is not followed")
    return await send(request)


class _Resolver(AbstractResolver):
    def __init__(self, policy: AddressPolicy, lookups: Lookups) -> None:
        self._policy, self._lookups = policy, lookups

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = self._policy.require(host, await self._lookups.addresses(host))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


def _socket_maker(host: str, policy: AddressPolicy, made: list[socket.socket]) -> Callable[[Any], socket.socket]:
    def make(address_info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = address_info
        reason = policy.why_refused(host, address[0])
        if reason:
            raise PermissionError(errno.EACCES, f"{host!r} leads to {reason}")
        made.append(_Sipping(family, kind, protocol))
        return made[-1]

    return make


class _Sipping(socket.socket):
    """A socket that is read a little at a time. asyncio asks for 256 KiB, and what was read is parsed in one turn of
    the loop: a server that sends nothing but tiny chunks, frames or headers would stop everybody else for long."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(min(size, _MAX_READ_BYTES), flags)

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0, /) -> int:
        return super().recv_into(buffer, min(size or len(buffer), _MAX_READ_BYTES), flags)


def _shut_down(sockets: Iterable[socket.socket]) -> None:
    """Before aiohttp closes its transports, since it waits for them: one that is closed first sends what is left in
    its buffer, for as long as the peer does not read; on a socket that was shut down it fails to, and closes."""
    for left in sockets:
        with suppress(OSError):  # it is closed, or was never connected
            left.shutdown(socket.SHUT_RDWR)


async def _closed(sockets: Iterable[socket.socket]) -> None:
    for _ in range(_TURNS):
        if all(left.fileno() == -1 for left in sockets):
            return
        await asyncio.sleep(0)
