"""What guests tell the host without waiting for an answer: log lines and events."""

from __future__ import annotations

from typing import Self

from pydantic_core import from_json

from isoplug.shared.errors import ServiceError
from isoplug.shared.limits import ANSWER_JSON_BYTES
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, host_function
from isoplug.supervisor.observe.logs import get_logger

__all__: list[str] = []

_log = get_logger("isoplug.guest")

# The reference host's levels; what it does not know it logs as trace, which Python does not have.
_LEVELS = {"error": _log.error, "warn": _log.warning, "info": _log.info}


class _Line(Request):
    level: str
    message: str


class _Event(Request):
    """Any JSON text, kept as it was sent."""

    text: str

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        try:
            from_json(payload, allow_inf_nan=False)  # pydantic's own validate_json takes NaN for JSON
        except ValueError as error:
            raise ServiceError(f"malformed input: Invalid JSON: {error}") from error
        return cls(text=payload.decode("utf-8"))


@host_function("host_log", _Line, refuse=None, max_input_bytes=None, is_notice=True)
def _guest_log(context: HostContext, request: _Line) -> None:
    log = _LEVELS.get(request.level, _log.debug)
    log("guest.log", plugin=context.plugin_id, message=request.message)


@host_function("host_emit_event", _Event, refuse=None, max_input_bytes=ANSWER_JSON_BYTES, is_notice=True)
def _emit_event(context: HostContext, request: _Event) -> None:
    context.services.emit(context.plugin_id, request.text)
