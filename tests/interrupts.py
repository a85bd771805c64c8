"""Interrupts (Ctrl-C) at a chosen place, instead of at a moment."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["interrupted_at", "is_starting_a_thread"]

_START = threading.Thread.start.__code__


def is_starting_a_thread(frame: FrameType | None) -> bool:
    """CPython's own ``Thread.start`` leaves its locks held when it is interrupted."""
    while frame is not None and frame.f_code is not _START:
        frame = frame.f_back
    return frame is not None


@contextmanager
def interrupted_at(number: int) -> Iterator[list[int]]:
    """KeyboardInterrupt at the ``number``-th place inside where the interpreter looks for signals: where a function
    begins, and where a call has returned. The list has the places that were passed.

    The garbage collector waits meanwhile: it would call what others have hung into it (Hypothesis does), at places of
    its own choice, and an interrupt in there is heard by nobody."""
    passed: list[int] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        has_started_a_thread = event == "return" and frame.f_code is _START
        if event == "c_call" or (is_starting_a_thread(frame) and not has_started_a_thread):
            return
        passed.append(1)
        if len(passed) == number:
            raise KeyboardInterrupt

    gc.disable()
    sys.setprofile(profile)
    try:
        yield passed
    finally:
        sys.setprofile(None)
        gc.enable()
