"""Bounds that both sides keep. Sizes are bytes; figures without a source were chosen, not measured."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ANSWER_JSON_BYTES",
    "ANSWER_JSON_CONTAINERS",
    "EXIT_BUG",
    "EXIT_LOCKDOWN",
    "EXIT_PROTOCOL",
    "FRAME_OVERHEAD_BYTES",
    "LAST_WORDS_BYTES",
    "NOTICE_BYTES",
    "TEXT_BYTES",
    "WASM_PAGE_BYTES",
    "WorkerLimits",
    "clip",
]

WASM_PAGE_BYTES = 65_536

#: Room for a message's header beside its payload: tag, numbers, a function's or an export's name.
FRAME_OVERHEAD_BYTES = 4_096

#: Longest text field of a message (an error, a name). A guest writes trap texts, so they are cut to this.
TEXT_BYTES = 4_096

#: Longest guest answer that is parsed as JSON. Parsed JSON can take forty times its text, so this is far below the
#: frame limit; raw answers (``Supervisor.call``) are not parsed and may fill a frame.
ANSWER_JSON_BYTES = 8 * 1024 * 1024
#: Lists and objects in it: a list of files with a few facts for each has 300,000 when it is that long.
ANSWER_JSON_CONTAINERS = 500_000


#: Longest host call that nobody answers; a longer one is sent as one that waits, so that a guest which logs megabytes
#: cannot fill the supervisor's queue with them.
NOTICE_BYTES = 64 * 1024

#: What a worker's standard error holds: one page, the smallest pipe that the kernel makes.
LAST_WORDS_BYTES = 4_096

#: Exit codes of a worker that gave up by itself: its supervisor's message made no sense, or its own code failed.
EXIT_PROTOCOL = 70
EXIT_BUG = 71
#: Of a template that has to have every layer of the lock-down, and lacks one.
EXIT_LOCKDOWN = 72


class WorkerLimits(NamedTuple):
    """What one worker process may use. Travels with the order for its template. ``processes`` is of all that run under
    its user id, threads included; for it and ``cpu_seconds``, 0 is no bound."""

    wasm_memory_bytes: int
    process_memory_bytes: int
    open_files: int
    frame_bytes: int
    cpu_seconds: int = 0
    processes: int = 0


def clip(text: str, bound_bytes: int = TEXT_BYTES) -> str:
    """``text`` cut to ``bound_bytes`` of UTF-8, marked with an ellipsis where something was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= bound_bytes:
        return encoded.decode("utf-8")
    return encoded[: bound_bytes - 3].decode("utf-8", "ignore") + "…"
