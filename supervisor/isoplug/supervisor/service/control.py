"""The control socket's server: connections, lines, and who may speak. What requests do is ``requests``'.

Whoever can connect is this user or root, and may do anything here; the bounds are for clients that hang, flood, or go
away. A connection is one task that reads a line, answers it, and reads the next. While it answers it looks whether the
peer is still there, because nobody else would tell: asyncio reports the end of input, which a client that has only shut
down its writing side causes as well.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from isoplug.shared.errors import InvalidArgument, PermissionDenied, PluginError, ServiceError
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.service.place import CONNECTIONS
from isoplug.supervisor.service.protocol import MAX_LINE_BYTES, Request, failure, parse_request

__all__ = ["Answer", "Control"]

_log = get_logger(__name__)

#: Answers a request with a line.
Answer: TypeAlias = Callable[[Request], Awaitable[bytes]]

#: For the rest of a line that has begun, and for a client to take an answer.
_LINE_SECONDS = 30.0
#: How often it is looked whether a client that waits for an answer is still there.
_LOOK_SECONDS = 0.1
#: For answers that are on their way when the service ends.
_LEAVE_SECONDS = 2.0
_CHUNK_BYTES = 1 << 16
#: Longer lines are parsed in a thread, one after the other: a large one takes seconds, and a hundred times its bytes.
_SHORT_BYTES = 1 << 16


class Control:
    """Serves ``listener`` until ``close``."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._answer = answer
        self._parsing = asyncio.Lock()
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, sock=self._listener, limit=_CHUNK_BYTES)

    async def close(self) -> None:
        """Let answers that are ready leave, then close every connection."""
        if self._server is not None:
            self._server.close()
        for connection, task in tuple(self._connections.items()):
            connection.is_last_answer = True
            if connection.idle_since is not None:
                task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections.values(), timeout=_LEAVE_SECONDS)
            for task in late:
                task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio would make a task of its own of it, and logs each that is cancelled (until 3.12).
        connection = _Connection(reader, writer, self._answer, self._parsing)
        task = self._connections[connection] = asyncio.create_task(self._attend(connection))
        # Many may come before the first of their tasks begins, and make room for each other: a task that is cancelled
        # before it has begun closes nothing.
        task.add_done_callback(lambda _: connection.abort())

    async def _attend(self, connection: _Connection) -> None:
        try:
            await self._admit(connection)
            await connection.converse()
        except (OSError, TimeoutError) as error:  # it is gone, or it does not read or write
            _log.debug("control.connection_lost", reason=str(error) or type(error).__name__)
            connection.abort()
        except PluginError as error:
            _log.warning("control.refused", code=error.code, reason=str(error))
            connection.say(error)
        except asyncio.CancelledError:  # it makes room for another, or the service ends
            connection.abort()
            raise
        finally:
            self._connections.pop(connection, None)
            await connection.leave()

    async def _admit(self, connection: _Connection) -> None:
        """Raises PermissionDenied, ServiceError."""
        uid = connection.peer_uid()
        if uid not in (os.geteuid(), 0):
            raise PermissionDenied("", f"user {uid} may not control the service of user {os.geteuid()}")
        if len(self._connections) > CONNECTIONS:
            idle = [one for one in self._connections if one.idle_since is not None and one is not connection]
            if not idle:
                busy = ServiceError(f"{CONNECTIONS} clients wait for answers already; try again when one has its own")
                busy.is_transient = True
                raise busy
            self._connections.pop(min(idle, key=lambda one: one.idle_since or 0.0)).cancel()


class _Connection:
    """One client."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, parsing: asyncio.Lock
    ) -> None:
        self._reader, self._writer, self._answer, self._parsing = reader, writer, answer, parsing
        self._read = bytearray()
        #: None while a request is being answered.
        self.idle_since: float | None = time.monotonic()
        #: The service ends: no further request is read.
        self.is_last_answer = False

    def peer_uid(self) -> int:
        credentials = self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", credentials)
        return int(uid)

    async def converse(self) -> None:
        """Until the client goes. Raises OSError and TimeoutError for its faults, InvalidArgument for a line that is too
        long."""
        while not self.is_last_answer and (line := await self._next_line()) is not None:
            self.idle_since = None
            answer = await self._answer_unless_gone(line)
            if answer is None:
                return
            self.idle_since = time.monotonic()  # a client that does not take its answer is idle
            self._writer.write(answer)
            async with asyncio.timeout(_LINE_SECONDS):
                await self._writer.drain()

    def say(self, error: PluginError) -> None:
        if not self._writer.is_closing():
            self._writer.write(failure(error))

    def abort(self) -> None:
        """Close without waiting for the client to take what was said."""
        self._writer.transport.abort()

    async def leave(self) -> None:
        """Close when the client has taken what was said, or has had its time."""
        self._writer.close()
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.abort()

    async def _next_line(self) -> bytes | None:
        """None at the end of input; what was begun by then is dropped."""
        while True:
            end = self._read.find(b"\n")
            if end >= 0:
                line = bytes(self._read[:end])
                del self._read[: end + 1]
                return line
            if len(self._read) >= MAX_LINE_BYTES:
                raise InvalidArgument(f"a request may have {MAX_LINE_BYTES} bytes; send less")
            async with asyncio.timeout(_LINE_SECONDS if self._read else None):
                chunk = await self._reader.read(_CHUNK_BYTES)
            if not chunk:
                return None
            self._read += chunk

    async def _answer_unless_gone(self, line: bytes) -> bytes | None:
        """None when the client has gone: what it asked for is cancelled."""
        work = asyncio.ensure_future(self._answer_line(line))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_LOOK_SECONDS)
                if not work.done() and self._is_gone():
                    return None
            return work.result()
        finally:
            work.cancel()

    async def _answer_line(self, line: bytes) -> bytes:
        try:
            return await self._answer(await self._parse(line))
        except PluginError as error:
            return failure(error)
        except Exception as error:  # noqa: BLE001  a fault of ours must not take the service's other clients with it
            _log.exception("control.failed")
            return failure(ServiceError(f"the service failed: {type(error).__name__}; see its log"))

    async def _parse(self, line: bytes) -> Request:
        if len(line) <= _SHORT_BYTES:
            return parse_request(line)
        async with self._parsing:
            return await asyncio.to_thread(parse_request, line)

    def _is_gone(self) -> bool:
        """Closed, that is, in both directions."""
        fd = self._socket().fileno()
        if fd < 0:
            return True
        poll = select.poll()
        poll.register(fd, 0)  # the kernel adds POLLHUP and POLLERR
        return bool(poll.poll(0))

    def _socket(self) -> socket.socket:
        found: socket.socket = self._writer.get_extra_info("socket")
        return found
