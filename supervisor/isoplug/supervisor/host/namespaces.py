"""Namespaces: objects that a person's devices share and audiences may see, on this machine or on a server.

One permission opens all of it: ``http_requests`` for the server's host, or ``plugin_storage`` where the provider keeps
them here, private to the plugin.

Contents of batches are always base64, also of text. The reference host sends ``text/*`` as text, which guests built
with older SDKs take for base64, and which loses bytes that are not UTF-8; guests of either age read base64.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Nothing, Request, as_data, envelope, from_base64, host_function
from isoplug.supervisor.host.services import RuntimeContext
from isoplug.supervisor.namespaces import (
    Audience,
    Batch,
    Gate,
    Namespace,
    NamespaceProvider,
    NewObject,
    ObjectInfo,
    Server,
    read_batches,
)
from isoplug.supervisor.namespaces.names import check_key, check_keys, check_line, check_mime_type, check_name
from isoplug.supervisor.permissions import Permission

__all__ = ["diaryx_server"]

_OK: Final = {"ok": True}

#: Of a namespace's metadata. A thousand of them, which is the most that are kept here, fit into one answer.
_METADATA_BYTES: Final = 16 * 1024
#: Of a batch call's input: some thousand keys.
_BATCH_INPUT_BYTES: Final = 1 << 20
#: What a key of a batch takes in the answer beside its content, apart from the key itself: names of fields, MIME type,
#: or the reason why there is none.
_ENTRY_BYTES: Final = 512
_MAX_U32: Final = 2**32 - 1
_LINE_BYTES: Final = 1024
_URL_BYTES: Final = 2048

_Name: TypeAlias = Annotated[str, AfterValidator(partial(check_name, what="ns_id"))]
_AudienceName: TypeAlias = Annotated[str, AfterValidator(partial(check_name, what="audience"))]
_Key: TypeAlias = Annotated[str, AfterValidator(check_key)]
_Line: TypeAlias = Annotated[str, AfterValidator(partial(check_line, what="text", bound_bytes=_LINE_BYTES))]
_Count: TypeAlias = Annotated[int, Field(ge=0, le=_MAX_U32)]


def _gate(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not isinstance(value.get("kind"), str):
        raise ServiceError('malformed input: gates: each is an object with a "kind", such as {"kind": "link"}')
    return value


class _Namespace(Request):
    ns_id: _Name

    def about(self) -> str:
        return self.ns_id


class _Object(_Namespace):
    key: _Key

    def about(self) -> str:
        return f"{self.ns_id}/{self.key}"


class _Audience(_Namespace):
    audience: _AudienceName

    def about(self) -> str:
        return f"{self.ns_id}/{self.audience}"


class _Create(Request):
    metadata: JsonValue = None


class _Put(_Object):
    body_base64: str
    mime_type: Annotated[str, AfterValidator(check_mime_type)]
    # Guests that have none send an empty one.
    audience: Annotated[_AudienceName | None, BeforeValidator(lambda value: None if value == "" else value)] = None
    file_ark: _Line | None = None
    source_key: _Line | None = None
    object_key: _Line | None = None
    is_index: bool | None = None


class _Batch(_Namespace):
    keys: Annotated[list[str], AfterValidator(check_keys)]


class _Batches(_Namespace):
    batches: list[list[str]]
    max_concurrency: _Count | None = None


class _ListObjects(_Namespace):
    prefix: _Line | None = None
    limit: _Count | None = None
    offset: _Count | None = None


class _SyncAudience(_Audience):
    gates: list[Annotated[dict[str, JsonValue], AfterValidator(_gate)]] | None = None
    access: Literal["public", "token", "private"] | None = None


class _SendEmail(_Audience):
    subject: _Line
    reply_to: _Line | None = None


class _Build(_Namespace):
    base_url: Annotated[str, AfterValidator(partial(check_line, what="base_url", bound_bytes=_URL_BYTES))] | None = None


# --- namespaces ---------------------------------------------------------------------------------------------------


@host_function(
    "host_namespace_create", _Create, refuse=envelope, max_input_bytes=_METADATA_BYTES, effect="namespace_created"
)
def _create(context: HostContext, request: _Create) -> dict[str, Any]:
    with _changing(context) as provider:
        made = provider.create(context.caller, request.metadata)
        context.note.target = made.id
    return _told(made)


@host_function("host_namespace_list", Nothing, refuse=envelope)
def _list(context: HostContext, _: Nothing) -> list[dict[str, Any]]:
    return list(map(_told, _provider(context).list(context.caller)))


@host_function("host_namespace_send_email", _SendEmail, refuse=envelope, effect="email_sent")
def _send_email(context: HostContext, request: _SendEmail) -> dict[str, Any]:
    with _changing(context) as provider:
        sent = provider.send_email(context.caller, request.ns_id, request.audience, request.subject, request.reply_to)
    return asdict(sent)


@host_function("host_namespace_build", _Build, refuse=envelope, effect="namespace_built")
def _build(context: HostContext, request: _Build) -> dict[str, bool]:
    with _changing(context) as provider:
        provider.build(context.caller, request.ns_id, request.base_url)
    return _OK


# --- objects ------------------------------------------------------------------------------------------------------


@host_function("host_namespace_put_object", _Put, refuse=envelope, max_input_bytes=None, effect="object_written")
def _put_object(context: HostContext, request: _Put) -> dict[str, bool]:
    new = NewObject(
        request.key,
        from_base64(request.body_base64, "body_base64"),
        request.mime_type,
        request.audience,
        request.file_ark,
        request.source_key,
        request.object_key,
        is_index=bool(request.is_index),
    )
    with _changing(context) as provider:
        provider.put_object(context.caller, request.ns_id, new)
    return _OK


@host_function("host_namespace_get_object", _Object, refuse=envelope)
def _get_object(context: HostContext, request: _Object) -> bytes:
    provider, max_bytes = _provider(context), _room_bytes(context, [request.key])
    found = provider.get_object(context.caller, request.ns_id, request.key, max_bytes)
    return as_data(found.content)


@host_function("host_namespace_get_objects_batch", _Batch, refuse=envelope, max_input_bytes=_BATCH_INPUT_BYTES)
def _get_objects(context: HostContext, request: _Batch) -> dict[str, Any]:
    provider, max_bytes = _provider(context), _room_bytes(context, request.keys)
    found = provider.get_objects(context.caller, request.ns_id, request.keys, max_bytes)
    return _batch_json(found)


@host_function(
    "host_namespace_get_objects_batches_concurrent", _Batches, refuse=envelope, max_input_bytes=_BATCH_INPUT_BYTES
)
def _get_batches(context: HostContext, request: _Batches) -> dict[str, Any]:
    keys = check_keys([key for batch in request.batches for key in batch])
    provider, max_bytes = _provider(context), _room_bytes(context, keys)
    concurrency = 4 if request.max_concurrency is None else request.max_concurrency
    found = read_batches(provider, context.caller, request.ns_id, request.batches, concurrency, max_bytes)
    return _batch_json(found)


@host_function("host_namespace_delete_object", _Object, refuse=envelope, effect="object_deleted")
def _delete_object(context: HostContext, request: _Object) -> dict[str, bool]:
    with _changing(context) as provider:
        provider.delete_object(context.caller, request.ns_id, request.key)
    return _OK


@host_function("host_namespace_list_objects", _ListObjects, refuse=envelope)
def _list_objects(context: HostContext, request: _ListObjects) -> list[dict[str, Any]]:
    found = _provider(context).list_objects(
        context.caller, request.ns_id, prefix=request.prefix or "", limit=request.limit, offset=request.offset or 0
    )
    return list(map(_told, found))


# --- audiences ----------------------------------------------------------------------------------------------------


@host_function("host_namespace_sync_audience", _SyncAudience, refuse=envelope, effect="audience_set")
def _sync_audience(context: HostContext, request: _SyncAudience) -> dict[str, bool]:
    audience = Audience(request.audience, *_gates(request))
    with _changing(context) as provider:
        provider.set_audience(context.caller, request.ns_id, audience)
    return _OK


@host_function("host_namespace_list_audiences", _Namespace, refuse=envelope)
def _list_audiences(context: HostContext, request: _Namespace) -> dict[str, list[str]]:
    return {"audiences": list(_provider(context).list_audiences(context.caller, request.ns_id))}


@host_function("host_namespace_delete_audience", _Audience, refuse=envelope, effect="audience_deleted")
def _delete_audience(context: HostContext, request: _Audience) -> dict[str, bool]:
    with _changing(context) as provider:
        provider.delete_audience(context.caller, request.ns_id, request.audience)
    return _OK


# --- inside -------------------------------------------------------------------------------------------------------


def diaryx_server(context: RuntimeContext) -> Callable[[str], Server]:
    """The server that a runtime context names, for ``HttpNamespaces``. Its namespaces are under ``/api``, as its
    proxies are; a ``server_url`` that ends so is not made longer."""

    def server(plugin_id: str) -> Server:
        told = context.get(plugin_id)
        url, token = told.get("server_url"), told.get("auth_token")
        if not isinstance(url, str) or not url:
            raise ServiceError("this host has no server; it names one with server.url or its runtime context")
        base_url = url.rstrip("/").removesuffix("/api") + "/api"
        return Server(base_url, token if isinstance(token, str) and token else None)

    return server


@contextmanager
def _changing(context: HostContext) -> Iterator[NamespaceProvider]:
    """``_provider`` for a call that changes something there. One that fails on its way to a server may have been done;
    a provider here says the truth about its failures."""
    provider, host = _permitted(context)
    with nullcontext() if host is None else context.note.at_risk():
        yield provider


def _provider(context: HostContext) -> NamespaceProvider:
    """The provider, when the plugin may use it. Raises PermissionDenied, and ServiceError when there is none."""
    return _permitted(context)[0]


def _permitted(context: HostContext) -> tuple[NamespaceProvider, str | None]:
    """With the server's host, None where it keeps them here."""
    provider = context.services.namespaces
    if provider is None:
        raise ServiceError(
            "this supervisor keeps no namespaces; give it state_dir= or a workspace", plugin_id=context.plugin_id
        )
    host = provider.host(context.plugin_id)
    if host is None:
        context.require(Permission.PLUGIN_STORAGE, "namespaces")
    else:
        context.require(Permission.HTTP_REQUESTS, host)
    return provider, host


def _gates(request: _SyncAudience) -> tuple[tuple[Gate, ...], str | None]:
    """Gates, and what an older guest said instead. ``private`` gets the gate that lets in nobody but those to whom the
    owner gives a link."""
    if request.gates is not None:
        return tuple(request.gates), None
    if request.access is None:
        raise ServiceError("malformed input: gates: Field required")
    return (() if request.access == "public" else ({"kind": "link"},)), request.access


def _room_bytes(context: HostContext, keys: Sequence[str]) -> int:
    """How many bytes of contents the answer about ``keys`` has room for, in base64. Keys may double in JSON."""
    names = sum(2 * len(key.encode()) + _ENTRY_BYTES for key in keys)
    return max(0, (context.services.frame_bytes - names) * 3 // 4)


def _batch_json(batch: Batch) -> dict[str, Any]:
    objects = {
        key: {
            "data": base64.b64encode(found.content).decode("ascii"),
            "mime_type": found.mime_type,
            "encoding": "base64",
        }
        for key, found in batch.objects.items()
    }
    return {"objects": objects, "errors": dict(batch.errors)} if batch.errors else {"objects": objects}


def _told(value: Namespace | ObjectInfo) -> dict[str, Any]:
    """Without what is not known."""
    return {name: field for name, field in asdict(value).items() if field is not None}
