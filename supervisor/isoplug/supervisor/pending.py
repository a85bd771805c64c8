"""A result that one thread gives, once, and that others wait for.

``concurrent.futures.Future`` is all of that, over a condition that is entered in Python: an interrupt of a host's
thread (Ctrl-C) that comes while it asks leaves the condition's lock held for ever, and with it everybody who asks
later, the hub's thread among them. Here nobody holds a lock who can be interrupted between two steps (see ``bell``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from isoplug.supervisor.bell import Bell
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Pending"]

_T = TypeVar("_T")
_log = get_logger(__name__)


class Pending(Generic[_T]):
    """Thread-safe; methods are named as those of a Future."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between giving the result and asking to be called
        self._is_done = False
        self._value: _T | None = None
        self._error: BaseException | None = None
        self._bells: list[Bell] = []
        self._callbacks: list[Callable[[Pending[_T]], None]] = []

    def done(self) -> bool:
        return self._is_done

    def exception(self) -> BaseException | None:
        """Why there is no result; None as well while it is not done."""
        return self._error

    def result(self, timeout: float = 0.0) -> _T:
        """Raises TimeoutError when it is not there after that many seconds, and what ``set_exception`` was given."""
        if not self._is_done:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        return cast(_T, self._value)

    def set_result(self, value: _T) -> None:
        """At most one of this and ``set_exception``, once."""
        self._value = value
        self._finish()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._finish()

    def add_done_callback(self, callback: Callable[[Pending[_T]], None]) -> None:
        """Call it when this is done, in the thread that gives the result; when it is done, at once, in this one."""
        with self._lock:
            if not self._is_done:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def _wait(self, seconds: float) -> None:
        bell = Bell()
        self._bells.append(bell)  # before the look: whoever finishes rings all that are there after it is done
        try:
            if not self._is_done:
                bell.wait(seconds)
            if not self._is_done:
                raise TimeoutError
        finally:
            self._bells.remove(bell)

    def _finish(self) -> None:
        with self._lock:
            self._is_done = True
        for bell in tuple(self._bells):
            bell.ring()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Pending[_T]], None]) -> None:
        try:
            callback(self)
        except Exception:  # noqa: BLE001  a fault of one that listens is not for the thread that gives the result
            _log.exception("callback.failed")
