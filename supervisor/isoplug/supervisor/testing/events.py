"""An event sink that remembers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from isoplug.supervisor.testing.tape import Tape

__all__ = ["Emitted", "RecordingEvents"]


class Emitted(NamedTuple):
    """``event`` is parsed JSON."""

    plugin_id: str
    event: Any


class RecordingEvents:
    """``EventSink`` for tests: what guests emitted with ``host_emit_event`` or asked for in ``set_config``, in order.

    All that a guest emits during a call is here when the call returns; ``wait_for`` is for what it does when nobody
    waits: when a message reaches it, or an event of ``Supervisor.emit``.
    """

    def __init__(self) -> None:
        self._tape = Tape[Emitted]("events")

    def emit(self, plugin_id: str, event_json: str) -> None:
        """See ``EventSink.emit``. Raises ServiceError when there are too many."""
        self._tape.add(Emitted(plugin_id, json.loads(event_json)), len(event_json))

    @property
    def emitted(self) -> list[Emitted]:
        """With who emitted them."""
        return self._tape.entries()

    @property
    def received(self) -> list[Any]:
        """The events alone."""
        return [entry.event for entry in self._tape.entries()]

    def wait_for(self, matches: Callable[[Any], bool], timeout: float = 5.0) -> Any:
        """The first event for which ``matches(event)`` is true, waiting at most ``timeout`` seconds. Raises
        AssertionError."""
        return self._tape.wait_for(lambda entry: matches(entry.event), timeout).event

    def clear(self) -> None:
        self._tape.clear()
