"""WebSockets of guests: who owns them, what arrives on them, and what guests answer to that.

``Desk`` is the one object that the rest of the supervisor knows: it gives every plugin at most one connection. The
connection itself is made by a ``WebSockets``, ``KeptSockets`` or a host's own; what arrives goes through the plugin's
``Inbox`` into calls of its exports.
"""

from __future__ import annotations

from isoplug.supervisor.websockets.desk import Desk
from isoplug.supervisor.websockets.envelope import (
    Action,
    DownloadSnapshot,
    EmitEvent,
    MalformedEnvelope,
    SendBinary,
    SendText,
    decode_actions,
)
from isoplug.supervisor.websockets.inbox import Guest, WorkerReplaced
from isoplug.supervisor.websockets.kept import Dial, KeptSockets, SocketPolicy
from isoplug.supervisor.websockets.protocol import (
    Connection,
    Listener,
    Message,
    NoSockets,
    Socket,
    Target,
    WebSockets,
)
from isoplug.supervisor.websockets.url import sync_target

__all__ = [
    "Action",
    "Connection",
    "Desk",
    "Dial",
    "DownloadSnapshot",
    "EmitEvent",
    "Guest",
    "KeptSockets",
    "Listener",
    "MalformedEnvelope",
    "Message",
    "NoSockets",
    "SendBinary",
    "SendText",
    "Socket",
    "SocketPolicy",
    "Target",
    "WebSockets",
    "WorkerReplaced",
    "decode_actions",
    "sync_target",
]
