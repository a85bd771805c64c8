"""The embedded HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress.addresses import AddressPolicy
from isoplug.supervisor.egress.lookup import Lookups, asking_plugin
from isoplug.supervisor.egress.loop import NetLoop
from isoplug.supervisor.egress.protocol import HttpRequest, HttpResponse

__all__ = ["AiohttpClient"]

_T = TypeVar("_T")

#: Exchanges at once, of all plugins together, since each may hold ``max_response_bytes`` of answer; further ones wait
#: within their deadline. A worker has one at a time, so no plugin can take them all.
_MAX_AT_ONCE = 32


class AiohttpClient:
    """An ``HttpClient``. Nothing is kept between exchanges: no connection, no cookie, no address of a name."""

    def __init__(self, loop: NetLoop, policy: AddressPolicy, lookups: Lookups, max_response_bytes: int) -> None:
        self._loop = loop
        self._policy = policy
        self._lookups = lookups
        self._max_response_bytes = max_response_bytes
        self._room = asyncio.Semaphore(_MAX_AT_ONCE)

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        """See ``HttpClient.send``."""
        # The first one imports aiohttp: in the time and the thread of who asked, not in the loop's, and not at start.
        from isoplug.supervisor.egress.exchange import exchange

        work = partial(exchange, request, self._policy, self._lookups, self._max_response_bytes)
        return self._loop.run(caller, self._in_turn(caller.plugin_id, work))

    async def _in_turn(self, plugin_id: str, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        asking_plugin.set(plugin_id)
        async with self._room:
            return await work()
