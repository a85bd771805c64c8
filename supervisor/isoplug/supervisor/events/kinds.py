"""Which events there are, what they carry, and which capability receives them (SPEC section 3). Rules as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isoplug.shared.errors import InvalidArgument

__all__ = ["EVENT_KINDS", "EventKind", "encode_event"]


@dataclass(frozen=True, slots=True)
class EventKind:
    capability: str
    fields: tuple[str, ...]


EVENT_KINDS: dict[str, EventKind] = {
    "workspace_opened": EventKind("workspace_events", ("workspace_root",)),
    "workspace_closed": EventKind("workspace_events", ("workspace_root",)),
    "workspace_committed": EventKind("workspace_events", ("workspace_root",)),
    "workspace_changed": EventKind("workspace_events", ("workspace_root", "changed_paths")),
    "file_saved": EventKind("file_events", ("path",)),
    "file_created": EventKind("file_events", ("path",)),
    "file_deleted": EventKind("file_events", ("path",)),
    "file_moved": EventKind("file_events", ("old_path", "new_path")),
}


def encode_event(event_type: str, payload: Mapping[str, Any]) -> tuple[str, bytes]:
    """The capability that receives the event and the input of ``on_event``. Raises InvalidArgument."""
    kind = EVENT_KINDS.get(event_type) if isinstance(event_type, str) else None
    if kind is None:
        raise InvalidArgument(f"no event {event_type!r}; there are: {', '.join(EVENT_KINDS)}")
    missing = [name for name in kind.fields if name not in payload]
    if missing:
        raise InvalidArgument(f"event {event_type!r} needs {', '.join(missing)} in its payload")
    event = {"event_type": event_type, "payload": dict(payload)}
    try:
        return kind.capability, json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the payload of {event_type!r} cannot be sent as JSON: {error}") from error
