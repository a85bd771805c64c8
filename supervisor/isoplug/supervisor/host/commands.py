"""Commands of other plugins. The checks are in calls/commands.py, where outside calls pass as well."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from isoplug.shared.limits import ANSWER_JSON_BYTES
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, host_function, to_json

__all__: list[str] = []


class _Command(Request):
    plugin_id: str
    command: str
    params: JsonValue = None

    def about(self) -> str:
        return f"{self.plugin_id}:{self.command}"


def _failure(message: str) -> bytes:
    return to_json({"success": False, "error": message})


@host_function(
    "host_plugin_command", _Command, refuse=_failure, max_input_bytes=ANSWER_JSON_BYTES, effect="command_run"
)
def _plugin_command(context: HostContext, request: _Command) -> dict[str, Any]:
    return {"success": True, "data": context.run_command(request.plugin_id, request.command, request.params)}
