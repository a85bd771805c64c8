"""Which headers a guest may send. No I/O.

Three kinds are not the guest's: *framing* (it would let one request smuggle another), *hop-by-hop* (they speak to the
next proxy, not to the server) and ``Host`` (the permission was given for the URL's host, and a shared front end would
go by the header). They are refused, so that nobody believes to have sent them, with one exception: what only repeats
what is sent anyway is left out, because HTTP libraries inside guests add it.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.egress import Headers, HttpUrl

__all__ = ["headers_of_guest"]

#: Names and values together, and how many: what common servers take (nginx 32 KiB, Apache 100 headers).
_MAX_BYTES = 32 * 1024
_MAX_HEADERS = 100

_CLOSED = frozenset(
    {
        "connection",
        "expect",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def headers_of_guest(headers: Mapping[str, str], url: HttpUrl, body_bytes: int) -> Headers:
    """The headers to send with a request for ``url`` with a body of that many bytes. Raises ServiceError,
    ResourceLimitExceeded."""
    if len(headers) > _MAX_HEADERS:
        raise ResourceLimitExceeded(None, "the number of headers", len(headers), _MAX_HEADERS)
    size = sum(len(name) + len(value.encode("utf-8")) for name, value in headers.items())
    if size > _MAX_BYTES:
        raise ResourceLimitExceeded(None, "the size of the headers in bytes", size, _MAX_BYTES)
    sent = ((name, value.strip(" \t")) for name, value in headers.items())
    return tuple((name, value) for name, value in sent if not _is_left_out(name.lower(), value, url, body_bytes))


def _is_left_out(name: str, value: str, url: HttpUrl, body_bytes: int) -> bool:
    """True for what is sent anyway. Raises ServiceError for what is not the guest's."""
    match name:
        case "accept-encoding":  # the client says which it can undo; guests get the body decompressed (as with fetch)
            return True
        case "host":
            is_same = value.lower() in (url.authority, f"{url.host}:{url.port}")
        case "content-length":
            is_same = value == str(body_bytes)
        case _:
            if name in _CLOSED or name.startswith("proxy-"):
                raise ServiceError(f"the header {name!r} is the host's to send")
            return False
    if not is_same:
        raise ServiceError(f"the header {name!r} is the host's to send, and would not say {value[:100]!r}")
    return True
