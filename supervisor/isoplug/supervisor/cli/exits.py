"""Which error ends the process with which code (SPEC section 11). 0 is success, 1 every failure not named here."""

from __future__ import annotations

from isoplug.shared.errors import (
    CallTimeout,
    InvalidArgument,
    LoadError,
    PermissionDenied,
    PluginError,
    PluginQuarantined,
    PoisonedInput,
    SetupError,
    WorkerCrashed,
)

__all__ = ["FAILED", "LOAD_FAILED", "TIMED_OUT", "exit_code"]

FAILED = 1
TIMED_OUT = 4
LOAD_FAILED = 6

_CODES: tuple[tuple[type[PluginError], int], ...] = (
    (InvalidArgument, 2),
    (SetupError, 2),
    (PermissionDenied, 3),
    (CallTimeout, TIMED_OUT),
    (WorkerCrashed, 5),
    (PluginQuarantined, 5),
    (PoisonedInput, 5),
    (LoadError, LOAD_FAILED),
)


def exit_code(error: PluginError) -> int:
    """The first class in the table that fits; 1 when none does."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
