"""What the supervisor asks of whoever owns WebSockets; ``KeptSockets`` is the embedded one."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from isoplug.shared.errors import ServiceError

__all__ = ["Connection", "Listener", "Message", "NoSockets", "Socket", "Target", "WebSockets"]

#: Binary or text, as WebSockets tell them apart.
Message: TypeAlias = bytes | str


@dataclass(frozen=True, slots=True)
class Target:
    """What a guest asked for; two that are equal are one connection. ``url`` is ready to be connected to. It may hold
    a token, so it is not printed, and belongs into no log and no error."""

    url: str = field(repr=False)
    host: str
    workspace_id: str
    write_to_disk: bool


class Listener(Protocol):
    """Hears what happens on one connection, from any thread, in order; never waits for a guest.

    Each answer is done once there is room for more: whoever reads on before then fills memory.
    """

    def connected(self) -> Future[None]:
        """The connection stands (again)."""

    def received(self, message: Message) -> Future[None]:
        """A whole message."""

    def disconnected(self) -> Future[None]:
        """The connection is lost, or the first attempt to make it has failed."""


class Connection(Protocol):
    """One guest's connection. Called from several threads at once."""

    def send(self, message: Message) -> None:
        """Queue a message; keeps the order. Raises ServiceError when there is no room."""

    def close(self, patience_seconds: float = 0.0) -> None:
        """Say goodbye and end it, for good. Waits at most that long until it is gone. Idempotent."""


class WebSockets(Protocol):
    """Opens WebSockets for guests. Called from several threads at once."""

    def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
        """A connection that makes itself, and makes itself again when it is lost, until it is closed. Returns at once.

        The plugin's previous connection has been told to close. Raises ServiceError.
        """


class Socket(Protocol):
    """One WebSocket in the network loop, from its upgrade to its end. All but ``close`` raise ServiceError when it is
    lost; the text says why."""

    async def receive(self) -> Message: ...

    async def send(self, message: Message) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None:
        """Say goodbye, briefly; afterwards there is no socket, whatever the server does."""


class NoSockets:
    """For a supervisor that only looks at modules: every connection is refused."""

    def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
        raise ServiceError("this supervisor opens no connections", plugin_id=plugin_id)
