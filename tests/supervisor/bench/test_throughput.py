"""Threads that call as often as they can, and end with their block."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from conftest import wait_until
from interrupts import is_starting_a_thread
from isoplug.supervisor.bench.sections.throughput import rate

LONG_SECONDS = 60.0


class Stopped(BaseException):
    """What Ctrl-C raises in the main thread."""


@pytest.fixture
def stopping() -> Iterator[None]:
    """``SIGALRM`` stops the main thread wherever it is, but a moment later where nobody would hear of it (in what
    Hypothesis has the garbage collector call) or CPython itself cannot bear it."""

    def stop(number: int, frame: FrameType | None) -> None:
        if is_starting_a_thread(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.0001)
        else:
            raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    gc.disable()
    yield
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_block_counts_the_calls_of_all_its_threads() -> None:
    calls: list[int] = []

    def call(number: int) -> None:
        time.sleep(0.01)
        calls.append(number)

    began = time.perf_counter()
    (calls_a_second,) = rate(call, 4)(0.02)
    assert len(calls) / (time.perf_counter() - began) <= calls_a_second <= 400


# From while the threads are started to while they call.
@pytest.mark.parametrize("after_seconds", [0.0005, 0.001, 0.002, 0.005, 0.1])
def test_when_a_block_is_interrupted_nothing_calls_any_more(stopping: None, after_seconds: float) -> None:
    before = threading.enumerate()
    called_at: list[float] = []

    def call(number: int) -> None:
        time.sleep(0.001)
        called_at.append(time.monotonic())

    block = rate(call, 32)

    def struck() -> None:
        signal.setitimer(signal.ITIMER_REAL, after_seconds)
        block(LONG_SECONDS)

    with pytest.raises(Stopped):
        struck()
    ended_at = time.monotonic()
    wait_until(lambda: not any(thread.is_alive() for thread in threading.enumerate() if thread not in before))
    assert all(instant <= ended_at for instant in called_at)
