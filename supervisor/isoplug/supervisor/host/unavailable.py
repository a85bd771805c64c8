"""Host functions that this version does not have: linkable, so that guests which import them load, and each answers
"not available" in its own error form."""

from __future__ import annotations

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import (
    Nothing,
    Refuse,
    constant,
    envelope,
    error_string,
    host_function,
    to_json,
)

__all__: list[str] = []


def _http_failure(message: str) -> bytes:
    return to_json({"status": 0, "headers": {}, "body": message, "error": message})


def _wasi_failure(message: str) -> bytes:
    return to_json({"exit_code": -1, "stdout": "", "stderr": message, "files": None, "error": message})


def _socket_failure(message: str) -> bytes:
    return to_json({"ok": False, "error": message})


_UNAVAILABLE: dict[str, Refuse] = {
    "host_secret_get": constant(b""),
    "host_secret_set": error_string,
    "host_secret_delete": error_string,
    "host_http_request": _http_failure,
    "host_proxy_request": _http_failure,
    "host_run_wasi_module": _wasi_failure,
    "host_ws_request": _socket_failure,
    "host_namespace_create": envelope,
    "host_namespace_list": envelope,
    "host_namespace_put_object": envelope,
    "host_namespace_get_object": envelope,
    "host_namespace_get_objects_batch": envelope,
    "host_namespace_get_objects_batches_concurrent": envelope,
    "host_namespace_delete_object": envelope,
    "host_namespace_list_objects": envelope,
    "host_namespace_sync_audience": envelope,
    "host_namespace_list_audiences": envelope,
    "host_namespace_delete_audience": envelope,
    "host_namespace_send_email": envelope,
    "host_namespace_build": envelope,
}


def _not_available(_context: HostContext, _: Nothing) -> None:
    raise ServiceError("not available on this host")


for _name, _refuse in _UNAVAILABLE.items():
    host_function(_name, Nothing, refuse=_refuse)(_not_available)
