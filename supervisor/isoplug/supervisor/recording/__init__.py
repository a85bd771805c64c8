"""What calls looked like to their guests, kept for a while on disk; and the reports of crashes.

A recording has all that a guest was told and answered, so that the call can be run again without any service
(``isoplug.supervisor.replaying``). Recording is an interceptor, the innermost: it sees what faults and others have made
of a call before the guest does.
"""

from __future__ import annotations

from isoplug.supervisor.recording.codec import MAX_FILE_BYTES, Unreadable, decode, encode
from isoplug.supervisor.recording.crashes import CrashLog, CrashReport, read_crashes
from isoplug.supervisor.recording.recorder import Recorder, Tape
from isoplug.supervisor.recording.redaction import redacted_request
from isoplug.supervisor.recording.ring import MODULES, Ring
from isoplug.supervisor.recording.tape import End, Ending, HostCall, Recording, Step, Unanswered

__all__ = [
    "CRASHES",
    "MAX_FILE_BYTES",
    "MODULES",
    "RECORDINGS",
    "CrashLog",
    "CrashReport",
    "End",
    "Ending",
    "HostCall",
    "Recorder",
    "Recording",
    "Ring",
    "Step",
    "Tape",
    "Unanswered",
    "Unreadable",
    "decode",
    "encode",
    "read_crashes",
    "redacted_request",
]

#: Their folders, in the state folder.
RECORDINGS, CRASHES = "recordings", "crashes"
