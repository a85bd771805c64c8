"""The messages that wait to be sent on one connection."""

from __future__ import annotations

import threading
from collections import deque

from isoplug.shared.errors import ResourceLimitExceeded
from isoplug.supervisor.websockets.protocol import Message

__all__ = ["Outbox", "size_of"]


def size_of(message: Message) -> int:
    """Its bytes on the way. Raises UnicodeEncodeError for text that has none."""
    return len(message) if isinstance(message, bytes) else len(message.encode("utf-8"))


class Outbox:
    """First in, first out, thread-safe. Holds ``max_messages``, and ``max_bytes`` in all, which so is also the bound of
    one message."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._lock = threading.Lock()
        self._messages: deque[tuple[Message, int]] = deque()
        self._bytes = 0

    def put(self, message: Message) -> None:
        """Raises ResourceLimitExceeded when the message is too large, or there is no room for it now."""
        size = size_of(message)
        if size > self._max_bytes:
            raise ResourceLimitExceeded(None, "the size of a message in bytes", size, self._max_bytes)
        with self._lock:
            if len(self._messages) >= self._max_messages or self._bytes + size > self._max_bytes:
                raise ResourceLimitExceeded(
                    None,
                    f"no room: {len(self._messages)} messages with {self._bytes} bytes wait to be sent",
                    advice="try again after on_connected, or when the server has taken some",
                )
            self._messages.append((message, size))
            self._bytes += size

    def take(self) -> Message | None:
        """The first one, or None when there is none."""
        with self._lock:
            if not self._messages:
                return None
            message, size = self._messages.popleft()
            self._bytes -= size
            return message
