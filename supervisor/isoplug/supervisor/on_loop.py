"""One call under an event loop: the loop waits for its worker, as long as that answers soon; else a thread does.

So a short call costs no thread, which would cost more than the call: two threads would have to wake each other. What
may wait for anything but the worker's next message is done in a thread (``calls.steps``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Generic, TypeVar

from isoplug.supervisor.calls import Cancellation, Steps, finish
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lookout import Lookout
from isoplug.supervisor.pool.link import Link

__all__ = ["CallOnLoop"]

_T = TypeVar("_T")

#: How long the loop waits for a message. A thread, which takes over then, looks whether the process still lives, too.
_PATIENCE_SECONDS = 0.5


class CallOnLoop(Generic[_T]):
    """For one loop, in its thread. ``leave`` is called there when the call has ended, which a cancelled one does some
    time after its task. ``threads`` has one that is free."""

    def __init__(
        self,
        steps: Steps[_T],
        deadline: Deadline,
        cancellation: Cancellation,
        lookout: Lookout,
        threads: Executor,
        leave: Callable[[], None],
    ) -> None:
        self._steps, self._deadline, self._cancellation = steps, deadline, cancellation
        self._lookout, self._threads, self._leave = lookout, threads, leave
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # its own, as it may go on in another thread
        self._ended: asyncio.Future[_T] = self._loop.create_future()
        self._has_ended = False
        self._watched_fd: int | None = None
        self._has_watched = False
        #: The loop has waited for its worker, and a thread went on.
        self.has_left_loop = False

    async def result(self) -> _T:
        """Raises what the call does. A task that is cancelled meanwhile ends it."""
        self._go_on()
        try:
            return await self._ended
        finally:
            if not self._has_ended:
                self._give_up()

    def _go_on(self) -> None:
        try:
            link = self._context.run(next, self._steps)
        except StopIteration as end:
            self._end(end.value, None)
        except BaseException as error:
            self._end(None, error)
            if not isinstance(error, Exception):  # an interrupt (Ctrl-C) of this thread, which is for the loop as well
                if not self._ended.cancelled():
                    self._ended.exception()  # it is raised here: asyncio need not log that nobody asked for it
                raise
        else:
            if link is None:
                self.has_left_loop = self._has_watched
                self._go_on_in_thread()
            else:
                self._watch(link)

    def _watch(self, link: Link) -> None:
        if self._lookout.loop is not self._loop:  # the supervisor was started in another one
            self._go_on_in_thread()
            return
        self._watched_fd, self._has_watched = link.fileno(), True
        until = min(self._deadline.at, time.monotonic() + _PATIENCE_SECONDS)
        try:
            self._lookout.watch(self._watched_fd, until, self._has_come)
        except OSError:  # the kernel has no room for another (``epoll_ctl``): a thread needs none
            self._has_come(False)

    def _has_come(self, is_readable: bool) -> None:
        self._watched_fd = None
        if is_readable:
            self._go_on()
        else:
            self.has_left_loop = True
            self._go_on_in_thread()

    def _go_on_in_thread(self) -> None:
        rest = [self._finish]
        try:
            self._threads.submit(_take, rest)
        except RuntimeError:
            # It was closed meanwhile, and the call will not wait; or no more threads can be started, and then one that
            # there is comes to it all the same.
            _take(rest)

    def _finish(self) -> None:
        try:
            end = partial(self._end, self._context.run(finish, self._steps), None)
        except BaseException as error:  # noqa: BLE001  carried over to the task
            end = partial(self._end, None, error)
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waits
            self._loop.call_soon_threadsafe(end)

    def _end(self, value: _T | None, error: BaseException | None) -> None:
        self._has_ended = True
        self._leave()
        if self._ended.done():  # its task was cancelled
            return
        if error is not None:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(value)  # type: ignore[arg-type]

    def _give_up(self) -> None:
        """Nobody waits for it any more."""
        self._cancellation.cancel()
        if self._watched_fd is not None:
            self._lookout.forget(self._watched_fd)
            self._go_on_in_thread()


def _take(rest: list[Callable[[], None]]) -> None:
    """For whoever comes first."""
    try:
        work = rest.pop()
    except IndexError:
        return
    work()
