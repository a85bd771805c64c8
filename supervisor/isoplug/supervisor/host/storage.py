"""A plugin's private key-value storage."""

from __future__ import annotations

from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, as_data, constant, error_string, from_base64, host_function
from isoplug.supervisor.permissions import Permission

__all__: list[str] = []


class _Get(Request):
    key: str

    def about(self) -> str:
        return self.key


class _Set(_Get):
    data: str


@host_function("host_storage_get", _Get, refuse=constant(b""))
def _storage_get(context: HostContext, request: _Get) -> bytes | None:
    context.require(Permission.PLUGIN_STORAGE, request.key)
    value = context.services.storage.get(context.plugin_id, request.key)
    return None if value is None else as_data(value)


@host_function("host_storage_set", _Set, refuse=error_string, max_input_bytes=None, effect="key_set")
def _storage_set(context: HostContext, request: _Set) -> None:
    context.require(Permission.PLUGIN_STORAGE, request.key)
    value = from_base64(request.data, "data")
    context.services.storage.set(context.plugin_id, request.key, value, context.storage_quota_bytes)
