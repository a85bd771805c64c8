"""Bounds that both sides keep. Sizes are bytes; figures without a source were chosen, not measured."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ANSWER_JSON_BYTES",
    "EXIT_BUG",
    "EXIT_PROTOCOL",
    "FRAME_OVERHEAD_BYTES",
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


#: Longest host call that nobody answers; a longer one is sent as one that waits, so that a guest which logs megabytes
#: cannot fill the supervisor's queue with them.
NOTICE_BYTES = 64 * 1024

#: Exit codes of a worker that gave up by itself: its supervisor's message made no sense, or its own code failed.
EXIT_PROTOCOL = 70
EXIT_BUG = 71


class WorkerLimits(NamedTuple):
    """What one worker process may use. Travels to the zygote with every request to fork."""

    wasm_memory_bytes: int
    process_memory_bytes: int
    open_files: int
    frame_bytes: int


def clip(text: str, bound_bytes: int = TEXT_BYTES) -> str:
    """``text`` cut to ``bound_bytes`` of UTF-8, marked with an ellipsis where something was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= bound_bytes:
        return encoded.decode("utf-8")
    return encoded[: bound_bytes - 3].decode("utf-8", "ignore") + "…"
