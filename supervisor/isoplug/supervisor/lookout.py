"""Watching for an event loop whether sockets have become readable, each once, until an instant.

``loop.add_reader``, ``remove_reader`` and a timer for each wait do the same, and take a sixth of a short call. Here the
loop watches one epoll object for all, in which a socket is armed for one event by one system call; and one timer serves
all waits.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

__all__ = ["Lookout", "OnSight"]

#: Told once: whether the socket has become readable, or its time has passed.
OnSight: TypeAlias = Callable[[bool], None]

_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Lookout:
    """Of the running loop, in its thread."""

    def __init__(self) -> None:
        """Raises OSError when there is no descriptor."""
        self.loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[float, OnSight]] = {}
        self._round_at = math.inf
        self._next_round: asyncio.TimerHandle | None = None
        self.loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, fd: int, until: float, on_sight: OnSight) -> None:
        """``until`` is an instant of ``time.monotonic``. Raises OSError when the kernel cannot watch another one."""
        try:
            self._epoll.modify(fd, _ONCE)
        except FileNotFoundError:  # for the first time; a descriptor that is closed leaves by itself
            self._epoll.register(fd, _ONCE)
        self._watched[fd] = until, on_sight
        if until < self._round_at:
            self._plan_round(until)

    def forget(self, fd: int) -> None:
        """It may still be armed: what it sees then concerns nobody."""
        self._watched.pop(fd, None)

    def close(self) -> None:
        """For whoever is still watched, the time has passed."""
        for fd in tuple(self._watched):
            self._tell(fd, False)
        if self._next_round is not None:
            self._next_round.cancel()
        with suppress(RuntimeError):  # the loop is closed
            self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            self._tell(fd, True)

    def _tell(self, fd: int, is_readable: bool) -> None:
        watched = self._watched.pop(fd, None)
        if watched is not None:
            _, on_sight = watched
            on_sight(is_readable)

    def _plan_round(self, at: float) -> None:
        if self._next_round is not None:
            self._next_round.cancel()
        self._round_at = at
        self._next_round = self.loop.call_later(max(0.0, at - time.monotonic()), self._go_round)

    def _go_round(self) -> None:
        """For those whose time has passed."""
        self._round_at, self._next_round = math.inf, None
        now = time.monotonic()
        for fd in [fd for fd, (until, _) in self._watched.items() if until <= now]:
            self._tell(fd, False)
        if self._watched:
            self._plan_round(min(until for until, _ in self._watched.values()))
