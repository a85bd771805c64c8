"""What arrives on a plugin's connection, on its way into calls of its exports.

The order of arrival is the order of calls. Whoever reads the network never waits for a guest: it is told when there is
room for more. A guest whose worker was replaced knows nothing of the connection, so before anything else it is told
``on_connected`` again; which worker knows what is decided in the thread that delivers, and the call itself refuses to
run in another worker than the one decided for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

from isoplug.shared.errors import (
    GuestTrap,
    PluginError,
    PluginNotFound,
    PluginQuarantined,
    PoisonedInput,
    ResourceLimitExceeded,
    SupervisorClosed,
)
from isoplug.supervisor.events import Mailbox, Paused, is_kept
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.websockets.envelope import Action, DownloadSnapshot, EmitEvent, SendBinary, SendText
from isoplug.supervisor.websockets.protocol import Connection, Message, Target

__all__ = ["Guest", "Inbox", "Line", "WorkerReplaced"]

_log = get_logger(__name__)


class WorkerReplaced(Exception):
    """The plugin has another worker by now; nothing was called."""


class Guest(Protocol):
    """One plugin, as what arrives for it needs it."""

    @property
    def plugin_id(self) -> str: ...

    @property
    def instance(self) -> int:
        """A number that is another one for each worker that the plugin gets."""

    def call(self, export: str, data: bytes, instance: int) -> tuple[Action, ...]:
        """Call from outside; what the guest wants done then, nothing when it has no such export. Waits for its turn.

        Raises WorkerReplaced when its worker is not that instance, and PluginError.
        """

    def emit(self, event_json: str) -> None:
        """Hand an event to the host."""


class _Export(StrEnum):
    CONNECTED = "on_connected"
    BINARY = "handle_binary_message"
    TEXT = "handle_text_message"
    DISCONNECTED = "on_disconnected"
    NONE = ""
    """Only to look whether the worker is a new one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    line: Line
    export: _Export
    data: bytes = b""


class Line:
    """One connection of a plugin, between its two ends: the ``Listener`` of whoever reads the network, and what the
    guest's answers are sent on."""

    def __init__(self, inbox: Inbox, target: Target, permit: Callable[[], None]) -> None:
        self.target = target
        self.is_closed = False  # guarded by the inbox's lock, as is the next one
        self.is_up = False
        self._inbox = inbox
        self._permit = permit
        self._connection: Future[Connection] = Future()  # until ``WebSockets.open``, which may report first, returns

    # --- for whoever reads the network (see Listener) ---

    def connected(self) -> Future[None]:
        greeting = {"workspace_id": self.target.workspace_id, "write_to_disk": self.target.write_to_disk}
        return self._inbox.take(_Arrival(self, _Export.CONNECTED, json.dumps(greeting, ensure_ascii=False).encode()))

    def received(self, message: Message) -> Future[None]:
        if isinstance(message, bytes):
            return self._inbox.take(_Arrival(self, _Export.BINARY, message))
        return self._inbox.take(_Arrival(self, _Export.TEXT, message.encode()))

    def disconnected(self) -> Future[None]:
        return self._inbox.take(_Arrival(self, _Export.DISCONNECTED))

    # --- for the desk and for what guests answer ---

    def attach(self, connection: Connection) -> None:
        self._connection.set_result(connection)

    def give_up(self, error: BaseException) -> None:
        """It could not be opened."""
        self._connection.set_exception(error)

    def send(self, message: Message) -> None:
        """Raises PermissionDenied, ResourceLimitExceeded, ServiceError."""
        self._permit()
        self._connection.result().send(message)

    def close(self, patience_seconds: float = 0.0) -> None:
        """A host's own connection that fails to end costs nobody else theirs, and the supervisor not its own end."""
        try:
            self._connection.result().close(patience_seconds)
        except Exception:  # noqa: BLE001  a connection of the host's own may raise anything
            _log.exception("websocket.close_failed", host=self.target.host)


class Inbox:
    """One plugin's arrivals. ``max_messages`` and ``max_bytes`` are where whoever reads is asked to wait."""

    def __init__(self, guest: Guest, max_messages: int, max_bytes: int) -> None:
        self._guest = guest
        self._max_messages, self._max_bytes = max_messages, max_bytes
        # Who does not wait when asked to (a host's own transport) loses messages in the end, not the host's memory.
        self._mailbox = Mailbox(guest.plugin_id, self._deliver, 2 * max_messages + 2, what="websocket")
        self._lock = threading.Lock()  # taken before the mailbox's, never after
        self._is_closed = False
        self._waiting = self._waiting_bytes = 0
        self._asked_to_wait: list[Future[None]] = []
        # Of the delivering thread alone: what every new worker has to be told, and which one has been.
        self._greeting: _Arrival | None = None
        self._greeted_instance: int | None = None

    def take(self, arrival: _Arrival) -> Future[None]:
        """See ``Listener``. What comes on a line that was closed is nobody's any more."""
        done: Future[None] = Future()
        with self._lock:
            line = arrival.line
            if not line.is_closed and not self._is_closed:
                if arrival.export in (_Export.CONNECTED, _Export.DISCONNECTED):
                    line.is_up = arrival.export is _Export.CONNECTED
                self._put(arrival)
                if self._is_full:
                    self._asked_to_wait = [*(other for other in self._asked_to_wait if not other.cancelled()), done]
                    return done
        done.set_result(None)
        return done

    def drop(self, line: Line) -> None:
        """The guest gave the line up: what it has not heard from it, it will not hear; that it is down, it will, if it
        takes it for up."""
        with self._lock:
            line.is_closed = True
            dropped = self._mailbox.discard(lambda arrival: arrival.line is line)
            for arrival in dropped:
                self._count(arrival, -1)
            unheard = [a.export for a in dropped if a.export in (_Export.CONNECTED, _Export.DISCONNECTED)]
            takes_it_for_up = unheard[0] is _Export.DISCONNECTED if unheard else line.is_up
            if takes_it_for_up:
                self._put(_Arrival(line, _Export.DISCONNECTED))
        self._make_room()

    def look_again(self, line: Line | None) -> None:
        """The plugin has a new worker: deliver what waits, and first of all what it has to know of ``line``, if it has
        one."""
        with self._lock:
            if line is not None and not line.is_closed:
                self._put(_Arrival(line, _Export.NONE))
        self._mailbox.resume()

    def close(self) -> None:
        """Nothing is delivered any more; a call in progress ends by itself."""
        with self._lock:
            self._is_closed = True
            self._waiting = self._waiting_bytes = 0
        self._mailbox.close()
        self._make_room()

    # --- what waits (the lock is held) ---

    @property
    def _is_full(self) -> bool:
        return self._waiting >= self._max_messages or self._waiting_bytes >= self._max_bytes

    def _put(self, arrival: _Arrival) -> None:
        if self._mailbox.post(arrival):
            self._count(arrival, 1)

    def _count(self, arrival: _Arrival, sign: int) -> None:
        self._waiting += sign
        self._waiting_bytes += sign * len(arrival.data)

    # --- delivering (without the lock, in the mailbox's thread) ---

    def _make_room(self) -> None:
        with self._lock:
            if self._is_full:
                return
            waiting, self._asked_to_wait = self._asked_to_wait, []
        for reader in waiting:
            if reader.set_running_or_notify_cancel():
                reader.set_result(None)

    def _deliver(self, arrival: _Arrival) -> None:
        stays = False
        try:
            self._handle(arrival)
        except PluginQuarantined as error:
            stays = True
            raise Paused from error
        except PluginError as error:
            stays = is_kept(error)
            raise
        finally:
            if not stays:
                with self._lock:
                    self._count(arrival, -1)
                self._make_room()

    def _handle(self, arrival: _Arrival) -> None:
        while True:
            instance = self._guest.instance
            try:
                self._handle_in(arrival, instance)
                return
            except WorkerReplaced:
                continue  # it knows nothing of the connection; look anew

    def _handle_in(self, arrival: _Arrival, instance: int) -> None:
        match arrival.export:
            case _Export.CONNECTED:
                self._greeting = arrival
                self._greet(instance)
            case _Export.DISCONNECTED:
                self._greeting = None
                self._call(arrival, instance)
            case _Export.BINARY | _Export.TEXT | _Export.NONE:
                if self._greeting is not None and self._greeted_instance != instance:
                    self._greet(instance)
                if arrival.export is not _Export.NONE:
                    self._call(arrival, instance)
            case _:
                assert_never(arrival.export)

    def _greet(self, instance: int) -> None:
        """Tell the worker that it is connected. When that costs the worker, its successor is told; a greeting that has
        killed two, or on which the guest trapped, is told to nobody any more."""
        greeting = self._greeting
        assert greeting is not None
        try:
            self._call(greeting, instance)
        except (PluginQuarantined, PluginNotFound, SupervisorClosed):
            raise
        except PluginError as error:
            if is_kept(error):
                raise
            _log.warning("websocket.failed", plugin=self._guest.plugin_id, code=error.code, reason=str(error))
            if isinstance(error, (GuestTrap, ResourceLimitExceeded, PoisonedInput)):
                self._greeting = None
        self._greeted_instance = instance

    def _call(self, arrival: _Arrival, instance: int) -> None:
        failure: PluginError | None = None
        for action in self._guest.call(arrival.export.value, arrival.data, instance):
            try:
                self._carry_out(action, arrival.line)
            except PluginError as error:
                failure = error
        if failure is not None:  # once: an envelope may hold thousands
            _log.warning("websocket.not_sent", plugin=self._guest.plugin_id, code=failure.code, reason=str(failure))

    def _carry_out(self, action: Action, line: Line) -> None:
        match action:
            case SendBinary(data):
                line.send(data)
            case SendText(text):
                line.send(text)
            case EmitEvent(event_json):
                self._guest.emit(event_json)
            case DownloadSnapshot(workspace_id):
                event = {"type": "download_snapshot", "workspace_id": workspace_id}
                self._guest.emit(json.dumps(event, ensure_ascii=False))
            case _:
                assert_never(action)
