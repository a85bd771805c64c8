"""Ctrl-C while the loop's thread is in a call."""

from __future__ import annotations

import asyncio
import gc
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from isoplug.supervisor.calls import Cancellation, Steps
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lookout import Lookout
from isoplug.supervisor.on_loop import CallOnLoop


def interrupted() -> Steps[None]:
    yield from ()
    raise KeyboardInterrupt


def test_an_interrupt_is_raised_and_not_logged_as_well(caplog: pytest.LogCaptureFixture) -> None:
    async def call(threads: ThreadPoolExecutor) -> None:
        lookout = Lookout()
        try:
            await CallOnLoop(
                interrupted(), Deadline.after(5.0), Cancellation(), lookout, threads, lambda: None
            ).result()
        finally:
            lookout.close()

    gc.collect()  # what earlier tests left unasked would be logged below
    caplog.clear()
    with caplog.at_level(logging.ERROR), ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(call(threads))
        gc.collect()
    assert caplog.text == ""
