"""The events that wait for one plugin."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from isoplug.shared.errors import PluginError
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Mailbox"]

_log = get_logger(__name__)


class Mailbox:
    """A bounded queue, and a thread while there is something in it: ``post`` never waits for a guest.

    ``deliver`` makes the call. An event whose call fails is logged and gone, it is not replayed: it may have been what
    killed the worker. An event that never reached a worker (``retryable``) stays the first in the queue.
    """

    def __init__(self, plugin_id: str, deliver: Callable[[bytes], None], bound: int) -> None:
        self._plugin_id = plugin_id
        self._deliver = deliver
        self._bound = bound
        self._events: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._is_running = False
        self._is_closed = False

    def post(self, event: bytes) -> bool:
        """False when the queue is full or closed, or no thread can be had: the event is dropped, and that is logged."""
        with self._changed:
            if self._is_closed or len(self._events) >= self._bound:
                _log.warning("event.dropped", plugin=self._plugin_id, waiting=len(self._events))
                return False
            self._events.append(event)
            if not self._is_running and not self._start():
                self._events.pop()
                return False
            return True

    def flush(self, deadline: Deadline) -> bool:
        """Wait until everything posted so far has been handled; False at the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_running, deadline.remaining_seconds())

    def close(self) -> None:
        """Drop what is left and accept nothing more. An event in delivery ends with its call."""
        with self._changed:
            self._is_closed = True
            if self._events:
                _log.warning("event.dropped", plugin=self._plugin_id, waiting=len(self._events))
            self._events.clear()

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._run, name=f"isoplug-events-{self._plugin_id}", daemon=True).start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending
            _log.warning("event.dropped", plugin=self._plugin_id, waiting=len(self._events) - 1, reason=str(error))
            return False
        self._is_running = True
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._events:
                    self._is_running = False
                    self._changed.notify_all()
                    return
                event = self._events.popleft()
            try:
                self._deliver(event)
            except PluginError as error:
                self._failed(event, error)
            except Exception:  # noqa: BLE001  a fault of ours must not stop the events behind it
                _log.exception("event.failed", plugin=self._plugin_id)

    def _failed(self, event: bytes, error: PluginError) -> None:
        with self._changed:
            if error.retryable and not self._is_closed:
                self._events.appendleft(event)
                return
        _log.warning("event.failed", plugin=self._plugin_id, code=error.code, reason=str(error))
