"""Requests through the proxy of the host's own server: the guest names a service, the server holds its keys.

The server's address may be private: the host program itself named it. The token goes to that one origin, so redirects
elsewhere are not followed, and nothing that a guest sends can stand in its place.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from pydantic import Field

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import HttpRequest, HttpUrl
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.http import answer_json, failure, follow, method_of_guest, subject
from isoplug.supervisor.host.http_headers import headers_of_guest
from isoplug.supervisor.host.registry import Request, host_function
from isoplug.supervisor.permissions import Permission

__all__: list[str] = []

_TIMEOUT_SECONDS = 120.0
_PROXY_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~@:-]{1,128}")
#: Percent signs stay: what the guest has encoded is encoded.
_PATH_AND_QUERY = "/?%:@!$&'()*+,;=~"
_MAX_ENCODINGS = 5
#: Who asks and in which form is not the guest's to say.
_OURS = frozenset({"authorization", "content-type", "cookie"})


class _Proxy(Request):
    proxy_id: str
    path: str = Field(default="", max_length=8192)
    method: str = "POST"
    headers: dict[str, str] = Field(default_factory=dict)
    body: str | None = None

    def about(self) -> str:
        return f"{self.method.upper()} {self.proxy_id}"


@host_function("host_proxy_request", _Proxy, refuse=failure, max_input_bytes=None, effect="request_sent")
def _proxy_request(context: HostContext, request: _Proxy) -> bytes:
    runtime = context.services.runtime_context.get(context.plugin_id)
    url = _url(_server(runtime.get("server_url")), request.proxy_id, request.path)
    context.note.target = subject(request.method, url.text)
    context.require(Permission.HTTP_REQUESTS, url.host)  # before the token is missed, which only the permitted see
    body = (request.body or "").encode("utf-8")
    sent = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
    headers = (
        *headers_of_guest(sent, url, len(body)),
        ("Authorization", f"Bearer {_token(runtime.get('auth_token'))}"),
        ("Content-Type", "application/json"),
    )
    first = HttpRequest(method_of_guest(request.method), url.text, headers, body, may_be_private=True)
    return answer_json(context, follow(context, context.caller.within(_TIMEOUT_SECONDS), first, may_leave=False))


def _server(server_url: object) -> HttpUrl:
    if not isinstance(server_url, str) or not server_url:
        raise ServiceError("this host has no server; it names one with server.url or its runtime context")
    try:
        return HttpUrl.parse(server_url)
    except ServiceError as error:
        raise ServiceError(f"the host's server_url cannot be used: {error}") from error


def _token(token: object) -> str:
    if not isinstance(token, str) or not token:
        raise ServiceError(
            "this host is not signed in to its server; its token comes from the environment variable in "
            "server.auth_token_env, or from its runtime context"
        )
    if not token.isascii() or not token.isprintable():
        raise ServiceError("the host's auth_token cannot be sent: it has characters that no header may hold")
    return token


def _url(server: HttpUrl, proxy_id: str, path: str) -> HttpUrl:
    """``{server}/api/proxy/{proxy_id}/{path}``; a query at the end of ``path`` is one. Raises ServiceError for what
    would lead to another endpoint, also after the server has decoded it, however often."""
    if not _PROXY_ID.fullmatch(proxy_id):
        raise ServiceError("proxy_id is not a name of letters, digits and . _ ~ @ : -")
    path = path.lstrip("/")
    if any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", _decoded(path.partition("?")[0]))):
        raise ServiceError("path has a '.' or '..' in it")
    tail = f"/{quote(path, safe=_PATH_AND_QUERY)}" if path else ""
    return HttpUrl.parse(
        f"{server.scheme}://{server.authority}{server.path.rstrip('/').removesuffix('/api')}/api/proxy/{proxy_id}{tail}"
    )


def _decoded(text: str) -> str:
    for _ in range(_MAX_ENCODINGS):
        text = unquote(text)
    if unquote(text) != text:
        raise ServiceError(f"path is percent-encoded more than {_MAX_ENCODINGS} times over")
    return text
