"""What makes two crashes the same. No I/O."""

from __future__ import annotations

import re
import signal

from isoplug.shared.errors import (
    CallTimeout,
    CrashReason,
    GuestTrap,
    PluginError,
    ResourceLimitExceeded,
    WorkerCrashed,
)
from isoplug.shared.limits import clip

__all__ = ["cause_of"]

#: What differs from one time to the next in the text of a trap.
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_CAUSE_BYTES = 200


def cause_of(error: PluginError) -> str:
    """The cause of a crash in a few words without addresses, sizes and times: ``SIGSEGV``, ``exit 71``,
    ``out_of_memory``, ``limits.output``, ``wasm `unreachable` instruction executed``."""
    match error:
        case WorkerCrashed(reason=CrashReason.SIGNAL):
            return _name(error.signal or 0)
        case WorkerCrashed(reason=CrashReason.EXIT):
            return f"exit {error.exit_code}"
        case WorkerCrashed():
            return str(error.reason)
        case GuestTrap():
            first_line, _, _ = error.trap.partition("\n")
            return clip(_NUMBERS.sub("#", first_line.removeprefix("wasm trap: ")), _CAUSE_BYTES) or "trap"
        case ResourceLimitExceeded():
            return error.key or "limit"
        case CallTimeout():
            return "timeout"
    return error.code


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
