"""What is known of one host call while it runs, and what of that the call's record keeps.

The function that is run writes the note; when it has ended, or nobody waits for it any more, the thread of the call
enters it into the record. A function that was left behind writes on in a note that nobody reads, and may begin nothing
any more: the record says that nothing was changed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from isoplug.shared.errors import PermissionDenied, PluginError, ServiceError
from isoplug.shared.record import CallRecord
from isoplug.supervisor.egress import NothingDone

__all__ = ["Note"]

_UNDER_WAY = "under way"


class Note:
    """``kind`` is that of the effect which the function has when it succeeds; None: it has none.

    ``has_begun``: something may have been changed from there on. ``is_certain`` is None as long as nothing has been
    changed, False when something may have been, True when it has.
    """

    __slots__ = ("denial", "has_begun", "is_certain", "is_entered", "kind", "result", "target")

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind
        self.target = ""
        self.result = _UNDER_WAY
        self.denial: PermissionDenied | None = None
        self.has_begun = False
        self.is_entered = False
        self.is_certain: bool | None = None

    def begin(self) -> None:
        """From here on it changes something. Raises ServiceError when nobody waits for it any more."""
        # ``enter`` does its two steps the other way round, so whatever the order of the two threads, either this one
        # stops or the record says "perhaps"; both happen when they meet in the middle.
        self.has_begun = True
        if self.is_entered:
            raise ServiceError("the call has ended; nothing was done")

    @contextmanager
    def at_risk(self) -> Iterator[None]:
        """Around what may have been done although it fails, such as a request whose answer does not come. Raising
        NothingDone says that it was not."""
        before = self.is_certain
        self.is_certain = before or False
        try:
            yield
        except NothingDone:
            self.is_certain = before
            raise
        self.is_certain = True

    # --- how it ended ---------------------------------------------------------------------------------------------

    def succeeded(self) -> None:
        self.result, self.is_certain = "ok", True

    def denied(self, error: PermissionDenied) -> None:
        self.result, self.denial = f"denied: {error.message}", error

    def failed(self, error: PluginError) -> None:
        """In good order. Only of a disk that fails (EIO) nobody knows what it has: the error may have come after the
        change, for example when the folder was to be made durable."""
        self.result = f"failed: {error.message}"
        cause = error.__cause__
        if self.has_begun and self.is_certain is None and isinstance(cause, OSError) and cause.errno == errno.EIO:
            self.is_certain = False

    def broke(self) -> None:
        """It raised what it should not, so what it has done is not known."""
        self.result = "failed: internal error of the host"
        if self.has_begun and self.is_certain is None:
            self.is_certain = False

    def enter(self, record: CallRecord, plugin_id: str, function: str) -> None:
        """By the thread of the call, once."""
        self.is_entered = True
        result = self.result
        if result is _UNDER_WAY and self.has_begun and self.is_certain is None:
            self.is_certain = False
        record.add_host_call(plugin_id, function, self.target, result)
        if self.denial is not None:
            record.add_denial(plugin_id, function, self.denial.permission, self.denial.target or "", str(self.denial))
        if self.kind is not None and self.is_certain is not None:
            record.add_effect(plugin_id, self.kind, self.target, is_certain=self.is_certain)
