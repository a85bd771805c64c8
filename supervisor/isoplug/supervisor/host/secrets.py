"""A plugin's secrets: kept apart from its storage, under the same permission and a quota of the same size."""

from __future__ import annotations

from pydantic import ConfigDict, SecretStr

from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import NAME_BYTES, Request, constant, error_string, host_function
from isoplug.supervisor.permissions import Permission

__all__: list[str] = []


class _Key(Request):
    key: str

    def about(self) -> str:
        return self.key


class _Set(_Key):
    model_config = ConfigDict(hide_input_in_errors=True)

    value: SecretStr  # whose repr does not show it


@host_function("host_secret_get", _Key, refuse=constant(b""))
def _secret_get(context: HostContext, request: _Key) -> dict[str, str] | None:
    context.require(Permission.PLUGIN_STORAGE, request.key)
    value = context.services.secrets.get(context.plugin_id, request.key)
    return None if value is None else {"value": value}


# As JSON, a value may take six times the bytes that it has.
@host_function("host_secret_set", _Set, refuse=error_string, max_input_bytes=8 * NAME_BYTES, effect="secret_set")
def _secret_set(context: HostContext, request: _Set) -> None:
    context.require(Permission.PLUGIN_STORAGE, request.key)
    context.services.secrets.set(
        context.plugin_id, request.key, request.value.get_secret_value(), context.storage_quota_bytes
    )


@host_function("host_secret_delete", _Key, refuse=error_string, effect="secret_deleted")
def _secret_delete(context: HostContext, request: _Key) -> None:
    context.require(Permission.PLUGIN_STORAGE, request.key)
    context.services.secrets.delete(context.plugin_id, request.key)
