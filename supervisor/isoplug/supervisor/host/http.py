"""HTTP requests of guests: each hop is parsed, permitted by its host, then sent by the host's HTTP client."""

from __future__ import annotations

import base64
from typing import Any

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress import HttpRequest, HttpResponse, HttpUrl
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.http_headers import headers_of_guest
from isoplug.supervisor.host.redirects import redirected
from isoplug.supervisor.host.registry import Request, from_base64, host_function, to_json
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import Permission

__all__ = ["answer_json", "failure", "follow", "method_of_guest", "subject"]

_log = get_logger(__name__)

#: As fetch and ureq count half of it or the same: fetch follows 20, ureq (the reference) 10.
_MAX_REDIRECTS = 10
_MIN_TIMEOUT_MS, _MAX_TIMEOUT_MS = 1_000, 300_000  # SPEC section 8
#: Tunnels, and a way to see what proxies have added to a request. No fetch allows them either.
_CLOSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})


class _Http(Request):
    url: str
    method: str
    headers: dict[str, str]
    body: str | None = None
    body_base64: str | None = None
    timeout_ms: int | None = None

    def about(self) -> str:
        return subject(self.method, self.url)

    def body_bytes(self) -> bytes:
        """``body_base64`` goes first when there are both, as in the reference."""
        if self.body_base64 is None:
            return (self.body or "").encode("utf-8")
        return from_base64(self.body_base64, "body_base64")

    def caller(self, context: HostContext) -> Caller:
        if self.timeout_ms is None:
            return context.caller
        timeout_ms = min(max(self.timeout_ms, _MIN_TIMEOUT_MS), _MAX_TIMEOUT_MS)
        return context.caller.within(timeout_ms / 1000)


def subject(method: str, url: str) -> str:
    """Of a request, for records: without query and fragment, which may hold credentials. A URL that cannot be used may
    hold them anywhere, so nothing of it is repeated."""
    try:
        parsed = HttpUrl.parse(url)
    except ServiceError:
        return f"{method.upper()} (no usable URL)"
    return f"{method.upper()} {parsed.scheme}://{parsed.authority}{parsed.path}"


def failure(message: str) -> bytes:
    """``{status: 0, headers: {}, body, error}``: guests read it with the same parser as an answer."""
    return to_json({"status": 0, "headers": {}, "body": message, "error": message})


@host_function("host_http_request", _Http, refuse=failure, max_input_bytes=None, effect="request_sent")
def _http_request(context: HostContext, request: _Http) -> bytes:
    url, body = HttpUrl.parse(request.url), request.body_bytes()
    headers = headers_of_guest(request.headers, url, len(body))
    first = HttpRequest(method_of_guest(request.method), url.text, headers, body)
    return answer_json(context, follow(context, request.caller(context), first))


def method_of_guest(method: str) -> str:
    """Upper-case, because servers compare exactly and guests write ``get``. Raises ServiceError."""
    method = method.upper()
    if method in _CLOSED_METHODS:
        raise ServiceError(f"the method {method} cannot be used")
    return method


def follow(context: HostContext, caller: Caller, request: HttpRequest, *, may_leave: bool = True) -> HttpResponse:
    """The answer at the end of the redirects. ``may_leave``: they may lead to other origins.

    Raises PermissionDenied for a hop that the plugin may not make, ServiceError.
    """
    origin = HttpUrl.parse(request.url).origin
    for _ in range(_MAX_REDIRECTS + 1):
        url = HttpUrl.parse(request.url)
        if not may_leave and url.origin != origin:
            raise ServiceError(f"the server redirects to {url.host!r}, where this request may not go")
        context.require(Permission.HTTP_REQUESTS, url.host)
        with context.note.at_risk():
            answer = context.services.http.send(caller, request)
        _log.debug(
            "http.answered", plugin=context.plugin_id, method=request.method, host=url.host, status=answer.status
        )
        onward = redirected(request, answer)
        if onward is None:
            return answer
        request = onward
    raise ServiceError(f"more than {_MAX_REDIRECTS} redirects")


def answer_json(context: HostContext, answer: HttpResponse) -> bytes:
    """``{status, headers, body, body_base64}`` within a frame. Raises ResourceLimitExceeded."""
    encoded = to_json(
        {
            "status": answer.status,
            "headers": _joined(answer),
            "body": answer.body.decode("utf-8", "replace"),
            "body_base64": base64.b64encode(answer.body).decode("ascii"),
        }
    )
    if len(encoded) > context.services.frame_bytes:
        raise ResourceLimitExceeded(
            context.plugin_id,
            "the size in bytes of the answer as JSON, which holds the body as text and as base64,",
            len(encoded),
            context.services.frame_bytes,
            "the host sets limits.frame",
        )
    return encoded


def _joined(answer: HttpResponse) -> dict[str, Any]:
    """Names in lower case; what came more than once is joined as RFC 9110 section 5.3 says."""
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
