"""Calls that can pause, so that an event loop waits for their workers and no thread has to.

A call is a generator. In a host's thread it runs to its end without a pause (``finish``), and waits inside. Under an
event loop (``Frame.pauses``) it pauses wherever it would wait: with a worker's ``Link``, which the loop watches, or
with None before whatever else may take its time; from there on the call belongs into a thread (``on_loop``).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

from isoplug.supervisor.pool.link import Link

__all__ = ["AT_ONCE_BYTES", "Steps", "finish"]

_T = TypeVar("_T")

#: What pauses, and returns what the call returns. Resume it when the link is readable, or in a thread; after None, in a
#: thread.
Steps: TypeAlias = Generator[Link | None, None, _T]

#: What an event loop sends, or makes something of, itself. A socket takes so much without waiting: the kernel's default
#: for its buffer is three times as much.
AT_ONCE_BYTES = 64 * 1024


def finish(steps: Steps[_T]) -> _T:
    """Run to the end, in this thread, which waits."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
