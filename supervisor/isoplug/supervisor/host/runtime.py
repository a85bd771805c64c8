"""What the host tells a guest about where it runs, what it offers it, and whether to go on."""

from __future__ import annotations

from typing import Any

from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Nothing, Request, constant, host_function

__all__: list[str] = []


class _Key(Request):
    key: str

    def about(self) -> str:
        return self.key


class _Token(Request):
    token: str

    def about(self) -> str:
        return self.token


@host_function("host_get_runtime_context", Nothing, refuse=constant(b"{}"))
def _runtime_context(context: HostContext, _: Nothing) -> dict[str, Any]:
    told = context.services.runtime_context.get(context.plugin_id)
    if not isinstance(told, dict):  # a host's own; guests read fields from it
        raise TypeError(f"RuntimeContext.get returned {type(told).__name__}, not a dict")
    return told


@host_function("host_request_file", _Key, refuse=constant(b""))
def _request_file(context: HostContext, request: _Key) -> bytes | None:
    offered = context.offered_files.get(request.key)
    return context.services.files.read(context.plugin_id, request.key) if offered is None else offered


@host_function("host_is_cancelled", _Token, refuse=None)
def _is_cancelled(context: HostContext, request: _Token) -> dict[str, bool]:
    return {"cancelled": context.is_cancelled(request.token)}
