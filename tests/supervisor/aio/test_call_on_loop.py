"""A call under a loop, when the machine has too little of something for it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from isoplug.supervisor.calls import Cancellation, Steps
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lookout import Lookout, OnSight
from isoplug.supervisor.on_loop import CallOnLoop
from isoplug.supervisor.pool.link import Link, open_pair


def test_a_call_for_which_no_thread_can_be_started_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[None] = []

    def steps() -> Steps[str]:
        yield None
        return "answer"

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        is_over = threading.Event()
        threads, lookout = ThreadPoolExecutor(2), Lookout()
        threads.submit(is_over.wait)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                leave = lambda: ended.append(None)  # noqa: E731
                call = CallOnLoop(steps(), Deadline.after(5.0), Cancellation(), lookout, threads, leave)
                assert await call.result() == "answer"
        finally:
            is_over.set()
            lookout.close()
            threads.shutdown()  # the thread that there is comes to what it was given
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert ended == [None]


class _Full(Lookout):
    """As if ``fs.epoll.max_user_watches`` were reached, which only root can set."""

    def watch(self, fd: int, until: float, on_sight: OnSight) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_call_whose_socket_the_loop_cannot_watch_goes_on_in_a_thread() -> None:
    ended: list[None] = []
    ours, theirs = open_pair()
    pidfd = os.pidfd_open(os.getpid())
    link = Link(ours, pidfd, 1000)

    def steps() -> Steps[threading.Thread]:
        yield link
        return threading.current_thread()

    async def scenario() -> None:
        lookout = _Full()
        with ThreadPoolExecutor(1) as threads:
            leave = lambda: ended.append(None)  # noqa: E731
            call = CallOnLoop(steps(), Deadline.after(5.0), Cancellation(), lookout, threads, leave)
            assert await call.result() is not threading.current_thread()
        lookout.close()

    try:
        asyncio.run(scenario())
    finally:
        link.close()
        theirs.close()
        os.close(pidfd)
    assert ended == [None]
