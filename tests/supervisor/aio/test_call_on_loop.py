"""A call that goes on in a thread, when there is none for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from isoplug.supervisor.calls import Cancellation, Steps
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lookout import Lookout
from isoplug.supervisor.on_loop import CallOnLoop


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
