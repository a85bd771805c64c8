"""One thread that listens to everybody who forks, and to the ends of those whose parent is gone."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Callable

from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Hub"]

_log = get_logger(__name__)


class Hub:
    """Thread-safe. The thread is there as long as there is something to listen to."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None

    def add(self, fd: int, on_readable: Callable[[], None]) -> None:
        """``on_readable`` is called in the hub's thread, must not wait, and has to call ``remove`` at its end. Raises
        OSError."""
        with self._lock:
            if self._thread is None:
                self._thread = self._started_thread()  # which ends at once when what follows is interrupted
            try:
                self._listeners[fd] = on_readable
                self._epoll.register(fd, select.EPOLLIN)
            except BaseException:
                del self._listeners[fd]
                raise

    def remove(self, fd: int) -> None:
        """Before ``fd`` is closed; in the hub's thread. Idempotent."""
        with self._lock:
            if self._listeners.pop(fd, None) is not None:
                self._epoll.unregister(fd)

    def join(self, patience_seconds: float) -> None:
        """Wait for the thread's end, which comes with that of the last process."""
        thread = self._thread
        if thread is not None:
            thread.join(patience_seconds)

    def close(self) -> None:
        """After ``join``. A thread that has not ended keeps what it needs."""
        with self._lock:
            if self._thread is None:
                self._epoll.close()

    def _started_thread(self) -> threading.Thread:
        """It waits for the lock, which is held."""
        thread = threading.Thread(target=self._listen, name="isoplug-hub", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        return thread

    def _listen(self) -> None:
        while self._goes_on():
            for fd, _ in self._epoll.poll():
                self._call(fd)

    def _goes_on(self) -> bool:
        with self._lock:
            if self._thread is not threading.current_thread():  # its start was interrupted, and another one is here
                return False
            if not self._listeners:
                self._thread = None
            return bool(self._listeners)

    def _call(self, fd: int) -> None:
        with self._lock:
            listener = self._listeners.get(fd)
        if listener is None:
            return
        try:
            listener()
        except Exception as error:  # noqa: BLE001  whoever waits for this one waits until the deadline; the others must not
            _log.exception("hub.listener_failed", error=str(error))
            self.remove(fd)
