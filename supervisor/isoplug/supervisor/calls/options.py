"""What a caller may ask of a call from outside, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isoplug.shared.errors import InvalidArgument
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls.cancellation import Cancellation
from isoplug.supervisor.deadline import Deadline

__all__ = ["CallOptions"]

_MAX_RETRIES = 100


@dataclass(frozen=True, slots=True)
class CallOptions:
    """``Supervisor.command`` says what each means; ``pauses``: an event loop makes the call (``calls.steps``). Raises
    InvalidArgument."""

    deadline: Deadline
    offered_files: Mapping[str, bytes] = field(default_factory=dict)
    retries: int = 0
    strict: bool = False
    record: CallRecord | None = None
    cancellation: Cancellation | None = None
    pauses: bool = False

    def __post_init__(self) -> None:
        is_count = isinstance(self.retries, int) and not isinstance(self.retries, bool)
        if not is_count or not 0 <= self.retries <= _MAX_RETRIES:
            raise InvalidArgument(f"retries must be a number from 0 to {_MAX_RETRIES}, not {self.retries!r}")
        if self.record is not None and (not isinstance(self.record, CallRecord) or self.record.attempts):
            raise InvalidArgument("record must be a new CallRecord: one is for one call")
        if self.cancellation is not None and not isinstance(self.cancellation, Cancellation):
            raise InvalidArgument(f"cancellation must be a Cancellation, not {type(self.cancellation).__name__}")
