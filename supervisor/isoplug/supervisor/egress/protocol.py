"""What the supervisor asks of whoever makes HTTP requests; ``AiohttpClient`` is the embedded one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.caller import Caller

__all__ = ["Headers", "HttpClient", "HttpRequest", "HttpResponse", "NothingDone"]

#: Names and values in order; a name may stand there more than once.
Headers: TypeAlias = tuple[tuple[str, str], ...]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110, section 5.6.2
_NOT_IN_VALUES = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class NothingDone(ServiceError):
    """It failed before it could have changed anything: no request has left this machine, or the server has refused it.
    Of a request that fails with another error, nobody knows."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``url`` is absolute, ``http`` or ``https``, with a host and without user-info or fragment.

    ``may_be_private``: the host program itself named the URL's host (its server), which so may be this machine or a
    neighbour. Method and headers cannot hold what would end a line; making a request of such raises ServiceError.
    """

    method: str
    url: str
    headers: Headers = field(default=(), repr=False)  # they hold credentials
    body: bytes = field(default=b"", repr=False)
    may_be_private: bool = False

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.method):
            raise ServiceError("the method is not a word such as GET")
        for name, value in self.headers:
            if not _TOKEN.fullmatch(name):
                raise ServiceError(f"the header name {name[:100]!r} is not one")
            if _NOT_IN_VALUES.search(value):
                raise ServiceError(f"the value of the header {name!r} contains a control character")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Making one of anything else raises ServiceError: it comes from clients that hosts write."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or not 100 <= self.status <= 999:
            raise ServiceError(f"the HTTP client answered the status {self.status!r}; it is a number from 100 to 999")
        if not isinstance(self.body, bytes):
            raise ServiceError(f"the HTTP client answered a body of type {type(self.body).__name__}; it is bytes")
        if not all(isinstance(text, str) for field in self.headers for text in field):
            raise ServiceError("the HTTP client answered headers that are not pairs of text")


class HttpClient(Protocol):
    """Makes HTTP requests. Called from several threads at once."""

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        """One exchange. A redirect is an answer like any other: whoever asked decides whether to follow, since each hop
        needs a permission of its own.

        Raises:
            ServiceError: no whole answer by the caller's deadline, or none at all; an address that may not be reached;
                an answer beyond the bounds. NothingDone, which is one, when the request has certainly not been sent.
        """
        ...
