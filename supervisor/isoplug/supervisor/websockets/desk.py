"""One connection a plugin: who has which, what it may do with it, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.permissions import Checker, Permission, denial
from isoplug.supervisor.websockets.inbox import Guest, Inbox, Line
from isoplug.supervisor.websockets.protocol import Message, Target, WebSockets

__all__ = ["Desk"]

#: How long the end of a connection may take when somebody waits for it. The embedded ones take half of it at most.
_END_SECONDS = 2.0


class _Place:
    """A plugin's place at the desk. The lock is held while its connection is changed. ``is_closed`` only ever becomes
    true, and is looked at before and after a connection is opened."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.lock = threading.Lock()
        self.line: Line | None = None
        self.is_closed = False


class Desk:
    """Thread-safe. A plugin has a place from ``admit`` to ``dismiss``, and no connection without one.

    ``max_messages`` and ``max_bytes`` bound what waits for a plugin's calls. Everything a guest asks for is checked
    here, each time, since a person may have changed the rules after it connected.
    """

    def __init__(self, sockets: WebSockets, permissions: Checker, max_messages: int, max_bytes: int) -> None:
        self._sockets = sockets
        self._permissions = permissions
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}

    # --- for guests -----------------------------------------------------------------------------------------------

    def connect(self, plugin_id: str, target: Target) -> bool:
        """Begin to connect, and stay connected; ``on_connected`` tells when it is done. The connection that the plugin
        has is kept when it is the same one (the answer is False), else it ends.

        Raises PermissionDenied, ServiceError.
        """
        permit = partial(self._permit, plugin_id, target.host)
        permit()
        place = self._place(plugin_id)
        with place.lock:
            if place.is_closed:
                raise _is_leaving(plugin_id)
            if place.line is not None and place.line.target == target:
                return False
            self._hang_up(place)
            place.line = self._open(place, plugin_id, target, permit)
            if place.is_closed:  # meanwhile, and whoever closed it did not wait for so long
                self._hang_up(place)
                raise _is_leaving(plugin_id)
            return True

    def send(self, plugin_id: str, message: Message) -> None:
        """Queue a message. Raises PermissionDenied, ResourceLimitExceeded when there is no room, ServiceError."""
        place = self._places.get(plugin_id)
        line = None if place is None else place.line
        if line is None:
            raise ServiceError("there is no connection; send a connect request first", plugin_id=plugin_id)
        line.send(message)

    def disconnect(self, plugin_id: str) -> bool:
        """End the connection; False when there is none."""
        place = self._places.get(plugin_id)
        if place is None:
            return False
        with place.lock:
            return self._hang_up(place)

    def is_connected(self, plugin_id: str) -> bool:
        """Whether the plugin has a connection, be it that it is being made again. Waits for nobody."""
        place = self._places.get(plugin_id)
        line = None if place is None else place.line
        return line is not None and not line.is_closed

    # --- for the supervisor ---------------------------------------------------------------------------------------

    def admit(self, guest: Guest) -> None:
        """The plugin is about to be started, and may connect."""
        with self._lock:
            self._places[guest.plugin_id] = _Place(Inbox(guest, self._max_messages, self._max_bytes))

    def greet(self, plugin_id: str) -> None:
        """The plugin has another worker, which knows nothing of a connection."""
        place = self._places.get(plugin_id)
        if place is not None:
            place.inbox.look_again(place.line)

    def hush(self, plugin_id: str) -> None:
        """The plugin is about to go: nothing arrives and it gets no other connection, but it may send its last words,
        from ``shutdown``. Waits for nobody: what is being opened at this moment is closed by ``connect``."""
        place = self._places.get(plugin_id)
        if place is not None:
            place.is_closed = True
            place.inbox.close()

    def dismiss(self, plugin_id: str) -> None:
        """The plugin is gone: when this returns, what it sent is on its way or given up, and no socket is left."""
        with self._lock:
            place = self._places.pop(plugin_id, None)
        if place is not None:
            self._leave([place])

    def close(self) -> None:
        """Dismiss everybody. Idempotent."""
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
        self._leave(places)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _place(self, plugin_id: str) -> _Place:
        place = self._places.get(plugin_id)
        if place is None:
            raise _is_leaving(plugin_id)
        return place

    def _permit(self, plugin_id: str, host: str) -> None:
        decision = self._permissions.check(plugin_id, Permission.HTTP_REQUESTS, host)
        if not decision.is_allowed:
            raise denial(plugin_id, Permission.HTTP_REQUESTS, host, decision)

    def _open(self, place: _Place, plugin_id: str, target: Target, permit: Callable[[], None]) -> Line:
        line = Line(place.inbox, target, permit)
        try:
            line.attach(self._sockets.open(plugin_id, target, line))
        except BaseException as error:
            line.give_up(error)
            place.inbox.drop(line)
            raise
        return line

    def _hang_up(self, place: _Place) -> bool:
        """With the place's lock held. False when there was no connection."""
        line, place.line = place.line, None
        if line is None:
            return False
        place.inbox.drop(line)
        line.close()
        return True

    def _leave(self, places: list[_Place]) -> None:
        lines = []
        for place in places:
            place.is_closed = True
            place.inbox.close()
            # A host's own WebSockets may hold the lock, and not return; what they open then is closed by ``connect``.
            if place.lock.acquire(timeout=_END_SECONDS):
                if place.line is not None:
                    lines.append(place.line)
                    place.line.close()  # all of them begin to end before the first is waited for
                place.lock.release()
        for line in lines:
            line.close(_END_SECONDS)


def _is_leaving(plugin_id: str) -> ServiceError:
    return ServiceError("the plugin is being unloaded; it gets no connection any more", plugin_id=plugin_id)
