"""Events from the host to guests: which there are, and the mailbox that delivers them in order."""

from __future__ import annotations

from isoplug.supervisor.events.kinds import EVENT_KINDS, encode_event
from isoplug.supervisor.events.mailbox import Mailbox, Paused, is_kept

__all__ = ["EVENT_KINDS", "Mailbox", "Paused", "encode_event", "is_kept"]
