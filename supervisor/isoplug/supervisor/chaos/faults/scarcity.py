"""Descriptors: taking them from the whole process, and what faults themselves need some for."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["needing_descriptors", "without_descriptors"]

_changed = threading.Condition()
#: How many want that there are none, and how many faults open something just now; never both.
_wanted = 0
_needed = 0
_limits_before = (0, 0)


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Nothing can be opened in this process (``EMFILE``), until the last who wants it so has done."""
    global _wanted, _limits_before
    with _changed:
        _changed.wait_for(lambda: not _needed)
        if not _wanted:
            _limits_before = resource.getrlimit(resource.RLIMIT_NOFILE)
            _exhaust()
        _wanted += 1
    try:
        yield
    finally:
        with _changed:
            _wanted -= 1
            if not _wanted:
                resource.setrlimit(resource.RLIMIT_NOFILE, _limits_before)
                _changed.notify_all()


@contextmanager
def needing_descriptors() -> Iterator[None]:
    """Another caller's fault leaves what this one opens within alone: it would have another effect than its own. Not
    within ``without_descriptors``."""
    global _needed
    with _changed:
        _changed.wait_for(lambda: not _wanted)
        _needed += 1
    try:
        yield
    finally:
        with _changed:
            _needed -= 1
            _changed.notify_all()


def _exhaust() -> None:
    """The soft limit is the lowest number that is free. (Not 0: poll(2) may ask about no more than it allows.)"""
    with suppress(OSError):  # there is none left already
        lowest_free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, _limits_before[1]))
