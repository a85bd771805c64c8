"""What waits for one plugin, and the thread that delivers it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from isoplug.shared.errors import PluginError, WorkerCrashed
from isoplug.shared.record import Outcome
from isoplug.supervisor.bell import Bell
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Mailbox", "Paused", "is_kept"]

_T = TypeVar("_T")
_log = get_logger(__name__)


#: Before what could not be delivered is tried again: a plugin that is busy says so at once.
_PATIENCE_SECONDS = 0.1


def is_kept(error: PluginError) -> bool:
    """Whether what was not handled is delivered once more: when it never reached a worker, and when the worker died and
    had changed nothing. The ledger of poisoned inputs bounds the latter: it refuses what has killed two; where somebody
    else kills, the plugin's quarantine does. Not what took too long, though it may have changed nothing: it would take
    as long again, and hold up what waits behind it."""
    return error.retryable and (error.outcome is Outcome.NOT_DELIVERED or isinstance(error, WorkerCrashed))


class Paused(Exception):
    """For ``deliver``: not now. The item stays the first, and nothing is delivered until ``resume``."""


class Mailbox(Generic[_T]):
    """A bounded queue, and a thread while there is something in it: ``post`` never waits for a guest.

    ``deliver`` makes the call. An item whose call fails stays the first in the queue when ``is_kept`` says so, else it
    is logged, with what it had done, and gone. ``what`` names the items in logs.
    """

    def __init__(self, plugin_id: str, deliver: Callable[[_T], None], bound: int, what: str = "event") -> None:
        self._plugin_id = plugin_id
        self._deliver = deliver
        self._bound = bound
        self._what = what
        self._items: deque[_T] = deque()
        self._lock = threading.RLock()  # entered by itself, see ``Keeper``
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None  # who delivers; any other that may run must not
        self._is_paused = False
        self._resumptions = 0
        self._flushing: set[Bell] = set()
        self._is_closed = False

    def post(self, item: _T) -> bool:
        """False when the queue is full or closed, or no thread can be had: the item is dropped, and that is logged."""
        with self._lock:
            if self._is_closed or len(self._items) >= self._bound:
                self._log_dropped(len(self._items))
                return False
            self._items.append(item)
            if not self._start():
                self._items.pop()
                return False
            return True

    def discard(self, is_unwanted: Callable[[_T], bool]) -> list[_T]:
        """Take these out of the queue; they are returned in order."""
        with self._lock:
            unwanted = [item for item in self._items if is_unwanted(item)]
            self._items = deque(item for item in self._items if not is_unwanted(item))
            return unwanted

    def resume(self) -> None:
        """What made ``deliver`` raise Paused has passed."""
        with self._lock:
            self._resumptions += 1
            self._is_paused = False
            self._start()

    def flush(self, deadline: Deadline) -> bool:
        """Wait until everything posted so far has been handled; False at the deadline, or while what is left is
        paused."""
        bell = Bell()
        with self._lock:
            self._flushing.add(bell)
        try:
            while True:
                with self._lock:
                    if self._thread is None:
                        return not self._items
                if deadline.has_passed:
                    return False
                bell.wait(deadline.remaining_seconds())
        finally:
            with self._lock:
                self._flushing.discard(bell)

    def close(self) -> None:
        """Drop what is left and accept nothing more. An item in delivery ends with its call."""
        with self._lock:
            self._is_closed = True
            if self._items:
                self._log_dropped(len(self._items))
            self._items.clear()
            self._changed.notify_all()

    def _log_dropped(self, waiting: int, **facts: str) -> None:
        _log.warning(f"{self._what}.dropped", plugin=self._plugin_id, waiting=waiting, **facts)

    def _start(self) -> bool:
        """False when a thread is needed and cannot be had. Call with the lock held."""
        if self._thread is not None or self._is_paused or not self._items:
            return True
        name = f"isoplug-{self._what}s-{self._plugin_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending
            self._thread = None
            self._log_dropped(len(self._items) - 1, reason=str(error))
            return False
        except BaseException:  # an interrupt (Ctrl-C): nobody knows whether it runs
            self._thread = None
            raise
        return True

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._thread is not threading.current_thread():
                    return
                if not self._items or self._is_paused:
                    self._thread = None
                    for bell in self._flushing:
                        bell.ring()
                    return
                item = self._items.popleft()
                resumptions = self._resumptions
            try:
                self._deliver(item)
            except Paused:
                self._pause(item, resumptions)
            except PluginError as error:
                self._failed(item, error)
            except Exception:  # noqa: BLE001  a fault of ours must not stop what waits behind it
                _log.exception(f"{self._what}.failed", plugin=self._plugin_id)

    def _pause(self, item: _T, resumptions: int) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._items.appendleft(item)
            self._is_paused = self._resumptions == resumptions  # unless it was resumed in the meantime

    def _failed(self, item: _T, error: PluginError) -> None:
        with self._lock:
            if is_kept(error) and not self._is_closed:
                self._items.appendleft(item)
                self._changed.wait_for(lambda: self._is_closed, _PATIENCE_SECONDS)
                return
        _log.warning(f"{self._what}.failed", plugin=self._plugin_id, code=error.code, reason=str(error))
