"""What guests tell the host without waiting for an answer: log lines and events."""

from __future__ import annotations

from typing import Self

from pydantic_core import from_json

from isoplug.shared.errors import ServiceError
from isoplug.shared.limits import ANSWER_JSON_BYTES, ANSWER_JSON_CONTAINERS
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, host_function
from isoplug.supervisor.json_bounds import has_more_containers
from isoplug.supervisor.observe.logs import get_logger

__all__: list[str] = []

_log = get_logger("isoplug.guest")

# The reference host's levels; what it does not know it logs as trace, which Python does not have.
_LEVELS = {"error": "error", "warn": "warning", "info": "info"}


class _Line(Request):
    level: str
    message: str


class _Event(Request):
    """Any JSON text, kept as it was sent."""

    text: str
    kind: str

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        if has_more_containers(payload, ANSWER_JSON_CONTAINERS):
            raise ServiceError(f"malformed input: more than {ANSWER_JSON_CONTAINERS} lists and objects")
        try:
            event = from_json(payload, allow_inf_nan=False)  # pydantic's own validate_json takes NaN for JSON
        except ValueError as error:
            raise ServiceError(f"malformed input: Invalid JSON: {error}") from error
        kind = event.get("type") if isinstance(event, dict) else None
        return cls(text=payload.decode("utf-8"), kind=kind if isinstance(kind, str) else "")

    def about(self) -> str:
        return self.kind


@host_function("host_log", _Line, refuse=None, max_input_bytes=None, is_notice=True, is_noted=False)
def _guest_log(context: HostContext, request: _Line) -> None:
    context.record.add_log_line(context.plugin_id, request.level, request.message)
    log = getattr(_log, _LEVELS.get(request.level, "debug"))
    log("guest.log", plugin=context.plugin_id, message=request.message)


@host_function(
    "host_emit_event", _Event, refuse=None, max_input_bytes=ANSWER_JSON_BYTES, is_notice=True, effect="event_emitted"
)
def _emit_event(context: HostContext, request: _Event) -> None:
    context.note.begin()
    context.services.emit(context.plugin_id, request.text)
