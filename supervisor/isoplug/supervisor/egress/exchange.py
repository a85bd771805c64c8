"""One HTTP exchange over aiohttp, within bounds. The second door to aiohttp.

No exception of aiohttp's leaves here, not even as a cause: it holds the request's headers, and they hold credentials.
"""

from __future__ import annotations

import asyncio
import os

import aiohttp
from yarl import URL

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.egress.addresses import AddressPolicy
from isoplug.supervisor.egress.lookup import Lookups
from isoplug.supervisor.egress.protocol import Headers, HttpRequest, HttpResponse, NothingDone
from isoplug.supervisor.egress.session import open_session
from isoplug.supervisor.egress.url import HttpUrl

__all__ = ["exchange"]

#: What described the body on its way, and no longer does once it was decompressed.
_OF_THE_COMPRESSED_BODY = frozenset({"content-encoding", "content-length"})
_COMPRESSIONS = frozenset({"gzip", "deflate", "br", "zstd"})


async def exchange(
    request: HttpRequest, policy: AddressPolicy, lookups: Lookups, max_response_bytes: int
) -> HttpResponse:
    """Cancel it to give up; its socket is closed then. Raises ServiceError (NothingDone when nothing was sent),
    ResourceLimitExceeded."""
    url = HttpUrl.parse(request.url)
    connected = asyncio.Event()
    if request.may_be_private:
        policy = policy.with_host(url.host)
    try:
        policy.require_literal(url.host)
        async with open_session(url.host, policy, lookups, connected.set) as session:
            return await _exchange_in(session, request, url, max_response_bytes)
    except ServiceError as error:  # of the look-up and of the addresses: it did not come to a connection
        raise NothingDone(error.message) from error
    except asyncio.CancelledError as error:
        if connected.is_set():
            raise
        raise NothingDone(f"{url.authority}: no connection could be made in time") from error
    except ResourceLimitExceeded:
        raise
    except aiohttp.ClientConnectorError as error:
        raise NothingDone(f"{url.authority}: {_reason(error)}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ServiceError(f"{url.authority}: {_reason(error)}") from None


async def _exchange_in(
    session: aiohttp.ClientSession, request: HttpRequest, url: HttpUrl, max_response_bytes: int
) -> HttpResponse:
    answer = await session.request(
        request.method,
        URL(url.text, encoded=True),
        headers=request.headers,
        data=request.body or None,
        allow_redirects=False,
    )
    try:
        body = await _read(answer, max_response_bytes)
        return HttpResponse(answer.status, _headers(answer, has_body=bool(body)), body)
    finally:
        answer.close()


async def _read(answer: aiohttp.ClientResponse, bound_bytes: int) -> bytes:
    """The decompressed body; a chunk at a time, so that one of a bomb is all that is ever there beyond the bound."""
    chunks, size = [], 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > bound_bytes:
            raise ResourceLimitExceeded(
                None, "the size of the answer in bytes", size, bound_bytes, "the host sets http.max_response"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _headers(answer: aiohttp.ClientResponse, *, has_body: bool) -> Headers:
    headers = [
        (name.decode("ascii", "replace").lower(), value.decode("utf-8", "replace"))
        for name, value in answer.raw_headers
    ]
    if has_body and any(name == "content-encoding" and value.lower() in _COMPRESSIONS for name, value in headers):
        headers = [(name, value) for name, value in headers if name not in _OF_THE_COMPRESSED_BODY]
    return tuple(headers)


def _reason(error: Exception) -> str:
    """In our words: aiohttp's hold resolved addresses and, when a server talks nonsense, pages of it."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its TLS certificate is not valid for this name, or nobody trusted here has signed it"
        case aiohttp.ClientSSLError():
            return "no TLS connection could be made"
        case aiohttp.ClientConnectorError():
            return f"no connection could be made ({_words(error.os_error)})"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection before it had answered"
        case aiohttp.ClientPayloadError():
            return "its answer broke off, or is not encoded as it says"
        case aiohttp.ClientResponseError():
            return "what it answered is not HTTP, or has headers beyond the bounds"
        case OSError():
            return f"the connection was lost ({_words(error)})"
        case _:
            return "the request could not be made"


def _words(error: OSError) -> str:
    """Of the number alone: asyncio writes the address into the text."""
    return os.strerror(error.errno) if error.errno else "no reason given"
