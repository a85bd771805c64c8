"""From a name to its addresses, in a thread that nobody has to wait for.

``getaddrinfo`` blocks for as long as the system's resolver likes and cannot be stopped. The loop's own executor would
make the interpreter's exit wait for it; a daemon thread that is left behind does not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TypeAlias

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Lookup", "Lookups", "asking_plugin", "system_lookup"]

_log = get_logger(__name__)

#: Addresses of a name, as text. Raises OSError when it has none. May block.
Lookup: TypeAlias = Callable[[str], Sequence[str]]

#: Threads at once. A resolver that hangs for its usual 10 s then costs so many threads, not one for each request; and
#: a plugin that asks for names whose server never answers, and goes on before they are found, has its own to fill.
_MAX_THREADS = 32
_MAX_THREADS_OF_ONE = 4
#: A name with more is not served better by trying them all.
_MAX_ADDRESSES = 16


#: For whom the coroutine works, so that plugins do not wait for each other's look-ups: a plugin's id.
asking_plugin: ContextVar[str] = ContextVar("asking_plugin", default="")


def system_lookup(host: str) -> list[str]:
    """As every other program of this machine would look it up: hosts file, DNS, whatever is configured."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Lookups:
    """Runs one ``Lookup`` for the coroutines of one event loop, without a cache: an answer is used once, for the
    connection that asked."""

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._room = asyncio.Semaphore(_MAX_THREADS)
        self._own_rooms: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_MAX_THREADS_OF_ONE)
        )

    async def addresses(self, host: str) -> list[str]:
        """Raises ServiceError."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()
        own_room = self._own_rooms[asking_plugin.get()]

        def leave() -> None:
            self._room.release()
            own_room.release()

        def tell(answer: Sequence[str] | BaseException) -> None:
            leave()  # only now: a thread that was left behind still takes its room
            if found.done():
                return
            if isinstance(answer, BaseException):
                found.set_exception(answer)
            else:
                found.set_result(answer)

        def look() -> None:
            answer: Sequence[str] | BaseException
            try:
                answer = self._lookup(host)
            except BaseException as error:  # noqa: BLE001  carried over to whoever waits
                answer = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, answer)

        await own_room.acquire()
        try:
            await self._room.acquire()
        except BaseException:
            own_room.release()
            raise
        try:
            threading.Thread(target=look, name="isoplug-lookup", daemon=True).start()
        except RuntimeError as error:
            leave()
            raise ServiceError(f"the host cannot start a thread to look up {host!r}: {error}") from error
        try:
            return list(await found)[:_MAX_ADDRESSES]
        except (OSError, UnicodeError) as error:
            _log.info("lookup.failed", host=host, reason=str(error))
            raise ServiceError(f"the name {host!r} cannot be looked up; is it spelt right?") from error
