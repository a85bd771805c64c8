"""What the supervisor asks of whoever makes HTTP requests; ``AiohttpClient`` is the embedded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from isoplug.supervisor.caller import Caller

__all__ = ["Headers", "HttpClient", "HttpRequest", "HttpResponse"]

#: Names and values in order; a name may stand there more than once.
Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``url`` is absolute, ``http`` or ``https``, with a host and without user-info or fragment."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Headers = ()
    body: bytes = b""


class HttpClient(Protocol):
    """Makes HTTP requests. Called from several threads at once."""

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        """One exchange. A redirect is an answer like any other: whoever asked decides whether to follow, since each hop
        needs a permission of its own.

        Raises:
            ServiceError: no whole answer by the caller's deadline, or none at all; an address that may not be reached;
                an answer beyond the bounds.
        """
        ...
