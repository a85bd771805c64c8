"""Where a redirect leads and what goes along, as the Fetch standard has it ("HTTP-redirect fetch"). No I/O."""

from __future__ import annotations

from dataclasses import replace

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import Headers, HttpRequest, HttpResponse, HttpUrl

__all__ = ["redirected"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: What another origin may see. Any other header may be a credential, ``X-Api-Key`` as well as ``Authorization``.
_HARMLESS = frozenset(
    {
        "accept",
        "accept-language",
        "cache-control",
        "content-encoding",
        "content-language",
        "content-type",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-unmodified-since",
        "range",
        "user-agent",
    }
)


def redirected(request: HttpRequest, answer: HttpResponse) -> HttpRequest | None:
    """The request that follows from ``answer``; None when it is no redirect. Raises ServiceError for one to nowhere, or
    from https to http."""
    location = next((value for name, value in answer.headers if name.lower() == "location"), None)
    if answer.status not in _REDIRECTS or location is None:
        return None
    here = HttpUrl.parse(request.url)
    there = here.join(location)
    if here.scheme == "https" and there.scheme == "http":
        raise ServiceError(f"the redirect from {here.host!r} to {there.host!r} leaves https, and is not followed")
    request = replace(_changed(request, answer.status), url=there.text)
    if here.origin == there.origin:
        return request
    return replace(request, headers=_harmless(request.headers), may_be_private=False)


def _changed(request: HttpRequest, status: int) -> HttpRequest:
    """A redirected POST becomes a GET without a body, and after 303 everything does; browsers set that custom."""
    is_dropped = request.method == "POST" if status in (301, 302) else status == 303 and request.method != "HEAD"
    if not is_dropped:
        return request
    headers = tuple((name, value) for name, value in request.headers if not name.lower().startswith("content-"))
    return replace(request, method="GET", headers=headers, body=b"")


def _harmless(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name.lower() in _HARMLESS)
