"""What is recorded of a call, as values. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from isoplug.shared.errors import CrashReason, GuestTrap, PluginError, ResourceLimitExceeded, WorkerCrashed
from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, FailureKind, Returned
from isoplug.supervisor.host import GuestAbort
from isoplug.supervisor.pool import Worker
from isoplug.supervisor.pool.budget import Exceeded
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.recording.signature import cause_of

__all__ = ["End", "Ending", "HostCall", "Recording", "Step", "Unanswered"]

#: Of what a guest said, in a message; the file of a recording may have more.
_SHOWN_BYTES = 4096


class End(StrEnum):
    """How an export ended."""

    RETURNED = "returned"
    MISSING = "missing"  #: the guest has no such export
    REFUSED = "refused"  #: the guest reported an error
    TRAP = "trap"
    LIMIT = "limit"
    TIMEOUT = "timeout"
    BREACH = "breach"  #: the worker broke the protocol
    DIED = "died"


_OF_FAILURE = {FailureKind.MISSING: End.MISSING, FailureKind.GUEST: End.REFUSED}


@dataclass(frozen=True, slots=True)
class Ending:
    """``output`` is what was returned; ``text`` the guest's error, or what is known of a crash; ``cause`` a crash in a
    few words that are the same whenever it happens again."""

    kind: End
    output: bytes = b""
    text: str = ""
    cause: str = ""

    @property
    def is_crash(self) -> bool:
        return bool(self.cause)

    def is_like(self, other: Ending) -> bool:
        """The same as far as it can be: two crashes are when they have the same cause."""
        if self.is_crash or other.is_crash:
            return (self.kind, self.cause) == (other.kind, other.cause)
        return self == other

    def __str__(self) -> str:
        text, cause = clip(self.text, _SHOWN_BYTES), clip(self.cause, _SHOWN_BYTES)
        match self.kind:
            case End.RETURNED:
                return f"it returned {len(self.output)} bytes"
            case End.MISSING:
                return "the module exports no such function"
            case End.REFUSED:
                return f"it reported an error: {text}"
        return f"it crashed: {cause}"

    @classmethod
    def of(cls, outcome: Returned | Failed) -> Ending:
        if isinstance(outcome, Returned):
            return cls(End.RETURNED, outcome.output)
        kind = _OF_FAILURE.get(outcome.kind, End.TRAP)  # a worker may say anything; the runner takes it so, too
        cause = cause_of(GuestTrap("", "", outcome.text)) if kind is End.TRAP else ""
        return cls(kind, text=outcome.text, cause=cause)

    @classmethod
    def of_loss(cls, end: Silence | Gone | Breach | Exceeded | GuestAbort, worker: Worker) -> Ending:
        """Of a call that costs ``worker`` its life. Waits for the exit status of one that has died."""
        match end:
            case Silence():
                return cls(End.TIMEOUT, text="the deadline passed", cause="timeout")
            case GuestAbort():
                return cls._of_error(End.TRAP, GuestTrap("", "", str(end)), str(end))
            case Exceeded():
                limit = ResourceLimitExceeded(None, end.what, end.figure, end.bound, key=end.key)
                return cls._of_error(End.LIMIT, limit, limit.message)
            case Breach():
                breach = WorkerCrashed("", str(end), reason=CrashReason.PROTOCOL_BREACH)
                return cls._of_error(End.BREACH, breach, str(end))
            case _:
                crash = worker.process.exit_status().crash("")
                return cls._of_error(End.DIED, crash, crash.cause)

    @classmethod
    def _of_error(cls, kind: End, error: PluginError, text: str) -> Ending:
        return cls(kind, text=text, cause=cause_of(error))


class Unanswered(StrEnum):
    """Why the guest got no answer to a host call."""

    NOT = ""  #: it got one
    ABORTED = "aborted"  #: its input made no sense, and the function has no error form
    DEADLINE = "deadline"  #: it had not answered by then
    GONE = "gone"  #: the worker was killed meanwhile, or the call cancelled
    BROKEN = "broken"  #: it is none of the host functions, or a limit was met


@dataclass(frozen=True, slots=True)
class HostCall:
    """What a guest asked, without secrets, and what it was answered. ``text`` is of one without an answer."""

    function: str
    request: bytes
    answer: bytes = b""
    unanswered: Unanswered = Unanswered.NOT
    text: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One export of a guest, called and ended."""

    export: str
    data: bytes
    host_calls: tuple[HostCall, ...]
    ending: Ending


@dataclass(frozen=True, slots=True)
class Recording:
    """A call, and what its instance had been told before (``start``: ``manifest``, ``set_config``, ``init``, and the
    latest ``set_config`` since).

    ``at`` is Unix time; ``served`` says how many calls the instance had answered before, of which nothing is known;
    ``patience_seconds`` is the time that the call had; ``limits`` are the plugin's, as JSON of ``config.Limits``;
    ``gap`` says why it cannot be run again, or is empty.
    """

    plugin_id: str
    sha256: str
    at: float
    served: int
    patience_seconds: float
    limits: str
    isoplug_version: str
    start: tuple[Step, ...]
    call: Step
    gap: str = ""

    @property
    def signature(self) -> str:
        """Of the crash that it ended with; the same as that of the crash's report."""
        return f"{self.plugin_id} {self.call.export}: {clip(self.call.ending.cause, _SHOWN_BYTES)}"
