"""WebSockets that reach nobody: the test is the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import NamedTuple

from isoplug.shared.errors import InvalidArgument, ServiceError
from isoplug.supervisor.testing.tape import Tape
from isoplug.supervisor.websockets import Connection, Listener, Message, Target

__all__ = ["RecordingSockets", "SentMessage"]

_PATIENCE_SECONDS = 10.0


class SentMessage(NamedTuple):
    """``message`` is bytes or text, as the guest sent it."""

    plugin_id: str
    message: Message


class _Opened:
    """One connection, for both of its sides."""

    def __init__(self, plugin_id: str, target: Target, listener: Listener, tape: Tape[SentMessage]) -> None:
        self.plugin_id, self.target, self.listener = plugin_id, target, listener
        self.is_closed = False
        self._tape = tape

    def send(self, message: Message) -> None:
        if self.is_closed:
            raise ServiceError("the connection is closed", plugin_id=self.plugin_id)
        self._tape.add(SentMessage(self.plugin_id, message), len(message))

    def close(self, patience_seconds: float = 0.0) -> None:
        self.is_closed = True


class RecordingSockets:
    """``WebSockets`` for tests: every connection stands at once, and what guests send is kept.

        sockets.deliver(b"from the server")
        assert sockets.wait_for(lambda message: message != b"hello") == b"the plugin's answer"

    The guest hears of ``deliver``, ``drop`` and ``reconnect`` in calls of its exports, which are made one after the
    other while the test goes on: ``wait_for`` waits for what comes of them. ``plugin_id`` may be left out while one
    plugin has a connection.
    """

    def __init__(self) -> None:
        self._tape = Tape[SentMessage]("WebSocket messages")
        self._connections: list[_Opened] = []
        self._lock = threading.Lock()

    def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
        """See ``WebSockets.open``."""
        connection = _Opened(plugin_id, target, listener, self._tape)
        with self._lock:
            self._connections = [other for other in self._connections if not other.is_closed] + [connection]
        listener.connected()
        return connection

    # --- what the guest did ---------------------------------------------------------------------------------------

    @property
    def targets(self) -> list[Target]:
        """Where connections lead that are open now. ``url`` holds the token that the guest gave."""
        with self._lock:
            return [connection.target for connection in self._connections if not connection.is_closed]

    @property
    def sent(self) -> list[SentMessage]:
        """With who sent them."""
        return self._tape.entries()

    @property
    def messages(self) -> list[Message]:
        """The messages alone."""
        return [entry.message for entry in self._tape.entries()]

    def wait_for(self, matches: Callable[[Message], bool], timeout: float = 5.0) -> Message:
        """The first message for which ``matches(message)`` is true, waiting at most ``timeout`` seconds. Raises
        AssertionError."""
        return self._tape.wait_for(lambda entry: matches(entry.message), timeout).message

    def clear(self) -> None:
        """Forget the messages; connections stay."""
        self._tape.clear()

    # --- what the server does -------------------------------------------------------------------------------------

    def deliver(self, message: Message, plugin_id: str | None = None, *, timeout: float = _PATIENCE_SECONDS) -> None:
        """Send a message to the guest, and do not wait until it has handled it. Raises InvalidArgument when there is no
        such connection, AssertionError when too much waits for the guest and it has not come to that within ``timeout``
        seconds."""
        _wait(self._connection(plugin_id).listener.received(message), timeout)

    def drop(self, plugin_id: str | None = None) -> None:
        """Lose the connection, until ``reconnect``. Raises InvalidArgument."""
        _wait(self._connection(plugin_id).listener.disconnected(), _PATIENCE_SECONDS)

    def reconnect(self, plugin_id: str | None = None) -> None:
        """After ``drop``: the connection stands again. Raises InvalidArgument."""
        _wait(self._connection(plugin_id).listener.connected(), _PATIENCE_SECONDS)

    def _connection(self, plugin_id: str | None) -> _Opened:
        with self._lock:
            meant = [c for c in self._connections if not c.is_closed and plugin_id in (None, c.plugin_id)]
        if len(meant) > 1:
            raise InvalidArgument(f"{len(meant)} plugins have a connection; name one with plugin_id=")
        if not meant:
            who = "no plugin has" if plugin_id is None else f"plugin {plugin_id!r} does not have"
            raise InvalidArgument(f"{who} a connection; a guest opens one with host_ws_request")
        return meant[0]


def _wait(room: Future[None], timeout: float) -> None:
    """Until there is room for more, as a reader of the network does."""
    try:
        room.result(timeout)
    except FutureTimeout as error:
        raise AssertionError("the plugin does not handle what it was sent before; its log may say why") from error
