"""Events from the host to guests: which there are, and one mailbox a plugin that delivers them in order."""

from __future__ import annotations

from isoplug.supervisor.events.kinds import EVENT_KINDS, encode_event
from isoplug.supervisor.events.mailbox import Mailbox

__all__ = ["EVENT_KINDS", "Mailbox", "encode_event"]
