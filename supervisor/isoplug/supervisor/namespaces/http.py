"""The provider that asks a Diaryx server.

Paths: ids and names are one segment each, percent-encoded with their slashes; keys keep their slashes, since the
server's route takes the rest of the path for the key (``names`` has seen to it that no segment means another place).
Redirects are answers like any other, and errors: the token goes to the server that the host named, nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.shared.limits import clip
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress import Headers, HttpClient, HttpRequest, HttpResponse, HttpUrl, NothingDone
from isoplug.supervisor.namespaces.multipart import boundary_of, parse_multipart
from isoplug.supervisor.namespaces.names import json_text
from isoplug.supervisor.namespaces.protocol import (
    Audience,
    Batch,
    Namespace,
    NewObject,
    ObjectContent,
    ObjectInfo,
    SentEmail,
)

__all__ = ["HttpNamespaces", "Server"]

_T = TypeVar("_T")

_JSON: Final[Headers] = (("Content-Type", "application/json"),)
_BINARY: Final = "application/octet-stream"

_NO_SUCH_ENDPOINT: Final = frozenset({404, 405, 406, 415, 501})
"""How servers that cannot answer a batch in parts say so."""

_GONE: Final = frozenset({404})

_WORDS_BYTES: Final = 300
"""Of a server's own words in an error."""

_WORDY_BYTES: Final = 64 * 1024
"""JSON longer than that is not looked through for words."""


@dataclass(frozen=True, slots=True)
class Server:
    """``base_url`` is what ``/namespaces`` is added to, so it has the prefix that the server wants
    (``https://app.diaryx.org/api``); ``token`` is sent as Bearer token."""

    base_url: str
    token: str | None = field(default=None, repr=False)


class _Named(BaseModel):
    name: str


class _BatchEntry(BaseModel):
    data: str
    mime_type: str | None = None
    encoding: str | None = None


class _BatchAnswer(BaseModel):
    objects: dict[str, _BatchEntry] = {}
    errors: dict[str, Any] = {}


_NAMESPACE: Final = TypeAdapter(Namespace)
_NAMESPACES: Final = TypeAdapter(list[Namespace])
_OBJECTS: Final = TypeAdapter(list[ObjectInfo])
_AUDIENCES: Final = TypeAdapter(list[_Named])
_SENT_EMAIL: Final = TypeAdapter(SentEmail)
_BATCH: Final = TypeAdapter(_BatchAnswer)


class HttpNamespaces:
    """A ``NamespaceProvider`` over HTTP.

    Args:
        http: makes the requests; ours, or a host's own.
        server: the server, or what tells it for a plugin's id; asked for every call, so that it may change. It may lie
            on a private address, since the host names it.
    """

    def __init__(self, http: HttpClient, server: Server | Callable[[str], Server]) -> None:
        self._http = http
        self._server = server

    def host(self, plugin_id: str) -> str:
        """See ``NamespaceProvider.host``."""
        return _base(self._server_of(plugin_id)).host

    # --- namespaces -------------------------------------------------------------------------------------------------

    def create(self, caller: Caller, metadata: Any) -> Namespace:
        """See ``NamespaceProvider.create``."""
        return self._ask(caller, "POST", "/namespaces", _NAMESPACE, {"metadata": metadata})

    def list(self, caller: Caller) -> Sequence[Namespace]:
        """See ``NamespaceProvider.list``."""
        return self._ask(caller, "GET", "/namespaces", _NAMESPACES)

    # --- objects ----------------------------------------------------------------------------------------------------

    def put_object(self, caller: Caller, ns_id: str, new: NewObject) -> None:
        """See ``NamespaceProvider.put_object``."""
        headers = (("Content-Type", new.mime_type), *_about(new))
        self._send(caller, "PUT", _object_path(ns_id, new.key), headers, new.content)

    def get_object(self, caller: Caller, ns_id: str, key: str, max_bytes: int) -> ObjectContent:
        """See ``NamespaceProvider.get_object``."""
        response = self._send(caller, "GET", _object_path(ns_id, key))
        if len(response.body) > max_bytes:
            raise ResourceLimitExceeded(
                caller.plugin_id, f"the size of the object {key!r} in bytes", len(response.body), max_bytes
            )
        return ObjectContent(response.body, _header(response, "content-type") or _BINARY)

    def get_objects(self, caller: Caller, ns_id: str, keys: Sequence[str], max_bytes: int) -> Batch:
        """See ``NamespaceProvider.get_objects``. Asks for parts, which are a quarter smaller than base64 in JSON;
        servers without that endpoint are asked for JSON."""
        path = f"{_namespace_path(ns_id)}/batch/objects"
        body = json_text({"keys": keys}).encode()
        response = self._send(caller, "POST", f"{path}/multipart", _JSON, body, also=_NO_SUCH_ENDPOINT)
        boundary = boundary_of(_header(response, "content-type"))
        if response.status in _NO_SUCH_ENDPOINT or boundary is None:
            response = self._send(caller, "POST", path, _JSON, body)
            found = _from_json(_parsed(_BATCH, response))
        else:
            found = _from_parts(response.body, boundary, len(keys))
        return _asked_for(keys, found, max_bytes)

    def delete_object(self, caller: Caller, ns_id: str, key: str) -> None:
        """See ``NamespaceProvider.delete_object``."""
        self._send(caller, "DELETE", _object_path(ns_id, key), also=_GONE)

    def list_objects(
        self, caller: Caller, ns_id: str, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> Sequence[ObjectInfo]:
        """See ``NamespaceProvider.list_objects``. Without a limit the server's own counts."""
        asked = {"prefix": prefix or None, "limit": limit, "offset": offset or None}
        query = _query({name: value for name, value in asked.items() if value is not None})
        return self._ask(caller, "GET", f"{_namespace_path(ns_id)}/objects{query}", _OBJECTS)

    # --- audiences --------------------------------------------------------------------------------------------------

    def set_audience(self, caller: Caller, ns_id: str, audience: Audience) -> None:
        """See ``NamespaceProvider.set_audience``. Gates are always sent: a server that knows gates takes a request
        without them, such as ``{"access": "private"}``, for one that opens the audience to everyone."""
        body: dict[str, Any] = {"gates": [dict(gate) for gate in audience.gates]}
        if audience.access is not None:
            body["access"] = audience.access  # for servers that do not know gates
        self._send(caller, "PUT", _audience_path(ns_id, audience.name), _JSON, json_text(body).encode())

    def list_audiences(self, caller: Caller, ns_id: str) -> Sequence[str]:
        """See ``NamespaceProvider.list_audiences``."""
        return [item.name for item in self._ask(caller, "GET", f"{_namespace_path(ns_id)}/audiences", _AUDIENCES)]

    def delete_audience(self, caller: Caller, ns_id: str, name: str) -> None:
        """See ``NamespaceProvider.delete_audience``."""
        self._send(caller, "DELETE", _audience_path(ns_id, name), also=_GONE)

    # --- what only servers do ---------------------------------------------------------------------------------------

    def send_email(self, caller: Caller, ns_id: str, audience: str, subject: str, reply_to: str | None) -> SentEmail:
        """See ``NamespaceProvider.send_email``."""
        body = {"subject": subject} if reply_to is None else {"subject": subject, "reply_to": reply_to}
        return self._ask(caller, "POST", f"{_audience_path(ns_id, audience)}/send-email", _SENT_EMAIL, body)

    def build(self, caller: Caller, ns_id: str, base_url: str | None) -> None:
        """See ``NamespaceProvider.build``."""
        query = "" if base_url is None else _query({"base_url": base_url})
        self._send(caller, "POST", f"{_namespace_path(ns_id)}/build{query}", _JSON)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _ask(self, caller: Caller, method: str, path: str, shape: TypeAdapter[_T], body: Any = None) -> _T:
        content = b"" if body is None else json_text(body).encode()
        return _parsed(shape, self._send(caller, method, path, () if body is None else _JSON, content))

    def _send(
        self,
        caller: Caller,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        also: frozenset[int] = frozenset(),
    ) -> HttpResponse:
        """The server's answer of success, or one whose status is in ``also``. Raises ServiceError for others."""
        server = self._server_of(caller.plugin_id)
        if server.token is not None:
            headers = (*headers, ("Authorization", f"Bearer {server.token}"))
        base = _base(server)
        url = f"{base.scheme}://{base.authority}{base.path.rstrip('/')}{path}"
        response = self._http.send(caller, HttpRequest(method, url, headers, body, may_be_private=True))
        if not 200 <= response.status < 300 and response.status not in also:
            raise _refused(response, server.token)
        return response

    def _server_of(self, plugin_id: str) -> Server:
        return self._server if isinstance(self._server, Server) else self._server(plugin_id)


# --- requests ---------------------------------------------------------------------------------------------------------


def _base(server: Server) -> HttpUrl:
    try:
        return HttpUrl.parse(server.base_url)
    except ServiceError as error:
        raise ServiceError(f"the URL of the host's server cannot be used: {error}") from error


def _namespace_path(ns_id: str) -> str:
    return f"/namespaces/{_segment(ns_id)}"


def _object_path(ns_id: str, key: str) -> str:
    return f"{_namespace_path(ns_id)}/objects/{'/'.join(map(_segment, key.split('/')))}"


def _audience_path(ns_id: str, audience: str) -> str:
    return f"{_namespace_path(ns_id)}/audiences/{_segment(audience)}"


def _segment(text: str) -> str:
    return quote(text, safe="")


def _query(fields: Mapping[str, Any]) -> str:
    return "?" + urlencode(fields, quote_via=quote, safe="") if fields else ""


def _about(new: NewObject) -> Headers:
    """What a server wants to know of an object, for which it has headers of its own."""
    fields = {
        "X-Audience": new.audience,
        "X-Diaryx-File-Ark": new.file_ark,
        "X-Diaryx-Source-Key": new.source_key,
        "X-Diaryx-Object-Key": new.object_key,
        "X-Diaryx-Is-Index": "true" if new.is_index else None,
    }
    for name, value in fields.items():
        if value is not None and not (value.isascii() and value.isprintable()):
            raise ServiceError(f"malformed input: {value[:100]!r} cannot be sent as {name}: only ASCII can")
    return tuple((name, value) for name, value in fields.items() if value is not None)


# --- answers ----------------------------------------------------------------------------------------------------------


def _header(response: HttpResponse, name: str) -> str:
    return next((value for key, value in response.headers if key.lower() == name), "")


def _parsed(shape: TypeAdapter[_T], response: HttpResponse) -> _T:
    try:
        return shape.validate_json(response.body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ServiceError(
            f"the server's answer cannot be used: {clip(f'{where}: ' if where else '', 100)}{problem['msg']}; is it a "
            "Diaryx server, and its URL with the prefix that it wants (/api)?"
        ) from error


def _refused(response: HttpResponse, token: str | None) -> ServiceError:
    status = response.status
    if 300 <= status < 400:
        return NothingDone(f"the server answered with a redirect ({status}); the host has to name its final URL")
    words = _words(response, token)
    advice = "; the host's auth_token may be missing, wrong or of somebody else" if status in (401, 403) else ""
    kind = NothingDone if status < 500 else ServiceError
    return kind(f"the server answered {status}{f': {words}' if words else ''}{advice}")


def _words(response: HttpResponse, token: str | None) -> str:
    """What the server says about an error: in JSON, or as plain text; pages are for people. Without the token, of which
    no part may be left where the words are cut."""
    text = ""
    media_type = _header(response, "content-type").partition(";")[0].strip().lower()
    if media_type in ("text/plain", ""):
        text = response.body.decode("utf-8", "replace")
    elif media_type == "application/json" and len(response.body) <= _WORDY_BYTES:
        try:
            answer = from_json(response.body)
        except ValueError:
            answer = None
        said = answer.get("error") or answer.get("message") if isinstance(answer, dict) else None
        text = said if isinstance(said, str) else ""
    text = text.replace(token, "[token]") if token else text
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * _WORDS_BYTES])
    return clip(" ".join(printable.split()), _WORDS_BYTES)


def _from_json(answer: _BatchAnswer) -> Batch:
    objects: dict[str, ObjectContent] = {}
    errors = {key: _reason(told) for key, told in answer.errors.items()}
    for key, entry in answer.objects.items():
        try:
            content = entry.data.encode() if entry.encoding == "text" else base64.b64decode(entry.data, validate=True)
        except (binascii.Error, ValueError):
            errors[key] = "the server's answer for it is not base64"
        else:
            objects[key] = ObjectContent(content, entry.mime_type or _BINARY)
    return Batch(objects, errors)


def _reason(told: Any) -> str:
    return clip(told if isinstance(told, str) else json.dumps(told), _WORDS_BYTES)


def _from_parts(body: bytes, boundary: str, max_parts: int) -> Batch:
    objects: dict[str, ObjectContent] = {}
    errors: dict[str, str] = {}
    for part in parse_multipart(body, boundary, max_parts):
        key = part.file_name or ""
        if part.headers.get("x-batch-error", "").strip().lower() == "true":
            errors[key] = _reason(part.content[:_WORDS_BYTES].decode("utf-8", "replace"))
        else:
            objects[key] = ObjectContent(part.content, part.headers.get("content-type", _BINARY))
    return Batch(objects, errors)


def _asked_for(keys: Sequence[str], found: Batch, max_bytes: int) -> Batch:
    """What was asked for and nothing else, as far as there is room."""
    objects: dict[str, ObjectContent] = {}
    errors: dict[str, str] = {}
    for key in keys:
        item = found.objects.get(key)
        if item is None:
            errors[key] = found.errors.get(key, "the server's answer does not mention it")
        elif len(item.content) > max_bytes:
            errors[key] = "there is no room left in this answer; ask for fewer objects at once"
        else:
            objects[key] = item
            max_bytes -= len(item.content)
    return Batch(objects, errors)
