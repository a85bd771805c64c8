"""Standard error of a worker: a small pipe to the supervisor, read when the process is dead.

What explains a death is what a library prints before it aborts, "memory allocation of 65536 bytes failed" (Rust), or an
exception of our own. Guests cannot write to it, Extism's WASI output is off. It can hold up
nobody and grow nothing: a full pipe refuses what comes next.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import TracebackType

from isoplug.shared.limits import LAST_WORDS_BYTES, clip
from isoplug.worker.lockdown import lifeline

__all__ = ["say", "speak_into"]

_STDERR = 2


def speak_into(write_end: int) -> None:
    """Make it this process's standard error, and die when nobody holds the read end.

    The supervisor has the read end of every process that it knows. When the parent dies between a fork and the report
    of it, the supervisor starts another one, and this one would wait for a greeting for ever.
    """
    os.dup2(write_end, _STDERR)
    lifeline.tie(_STDERR, signal.SIGKILL)


def say(error: BaseException) -> None:
    """One line about an exception that ends this process: what it was, and where in our own code."""
    what = ": ".join(filter(None, (type(error).__name__, str(error))))
    line = f"{what}{_place(error.__traceback__)}\n"
    with suppress(OSError):  # the pipe is full
        os.write(_STDERR, clip(line, LAST_WORDS_BYTES).encode())


def _place(traceback: TracebackType | None) -> str:
    place = ""
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.startswith("isoplug."):
            place = f", in {module}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
