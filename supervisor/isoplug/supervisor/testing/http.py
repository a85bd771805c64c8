"""An HTTP client that reaches nobody: it answers what the test has scripted, and remembers what was asked."""

from __future__ import annotations

import json as json_module
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from isoplug.shared.errors import InvalidArgument, ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress import HttpRequest, HttpResponse, HttpUrl
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.testing.tape import Tape

__all__ = ["RecordingHttp", "Sent"]

_log = get_logger(__name__)

#: Whether a script is meant for a request.
Matches: TypeAlias = Callable[[HttpRequest], bool]
Reply: TypeAlias = Callable[[HttpRequest], HttpResponse]

_ABSENT: Any = object()


class Sent(NamedTuple):
    plugin_id: str
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class _Script:
    method: str
    url: str | Matches
    reply: Reply

    def is_for(self, request: HttpRequest) -> bool:
        if request.method != self.method:
            return False
        return request.url == self.url if isinstance(self.url, str) else self.url(request)

    def __str__(self) -> str:
        return f"{self.method} {self.url if isinstance(self.url, str) else '(a predicate)'}"


class RecordingHttp:
    """``HttpClient`` for tests::

        http = RecordingHttp()
        http.answer("GET", "https://api.example/today", json={"mood": "fine"})
        http.fail("POST", "https://api.example/log", "connection refused")

    A URL means exactly that one, however it is spelled; a predicate gets the whole ``HttpRequest``.
    Several answers for one request are given in their order, the last one for ever. Permissions are checked before a
    request comes here, and redirects are followed by who asked: each hop is a request of its own.
    """

    def __init__(self) -> None:
        self._tape = Tape[Sent]("HTTP requests")
        self._scripts: list[_Script] = []
        self._lock = threading.Lock()

    def answer(
        self,
        method: str,
        url: str | Matches,
        body: bytes | str = b"",
        *,
        json: Any = _ABSENT,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with ``body``, or with ``json`` and its content type. Raises InvalidArgument as ``answer_with``."""
        fields = dict(headers or {})
        if json is not _ABSENT:
            body = json_module.dumps(json)
            fields.setdefault("content-type", "application/json")
        content = body.encode() if isinstance(body, str) else body
        response = HttpResponse(status, tuple(fields.items()), content)
        self.answer_with(method, url, lambda _request: response)

    def answer_with(self, method: str, url: str | Matches, reply: Reply) -> None:
        """Answer with what ``reply(request)`` returns; it may raise ServiceError.

        Raises InvalidArgument when ``url`` is none that a guest could ask for.
        """
        if isinstance(url, str):
            try:
                url = HttpUrl.parse(url).text
            except ServiceError as error:
                raise InvalidArgument(f"no guest can ask for {url!r}: {error}") from error
        with self._lock:
            self._scripts.append(_Script(method.upper(), url, reply))

    def fail(self, method: str, url: str | Matches, reason: str) -> None:
        """Fail as a client does that gets no answer: ``reason`` is what the guest is told."""

        def reply(_request: HttpRequest) -> HttpResponse:
            raise ServiceError(reason)

        self.answer_with(method, url, reply)

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        """See ``HttpClient.send``. Raises ServiceError for what is not scripted, with what is."""
        self._tape.add(Sent(caller.plugin_id, request), len(request.body))
        return self._next(caller.plugin_id, request).reply(request)

    @property
    def sent(self) -> list[Sent]:
        """With who asked."""
        return self._tape.entries()

    @property
    def requests(self) -> list[HttpRequest]:
        """The requests alone, also those that nothing was scripted for."""
        return [entry.request for entry in self._tape.entries()]

    def clear(self) -> None:
        """Forget the requests; what is scripted stays."""
        self._tape.clear()

    def _next(self, plugin_id: str, request: HttpRequest) -> _Script:
        with self._lock:
            meant = [script for script in self._scripts if script.is_for(request)]
            if len(meant) > 1:
                self._scripts.remove(meant[0])
            scripted = ", ".join(map(str, self._scripts)) or "nothing"
        if meant:
            return meant[0]
        error = ServiceError(
            f"the test has no answer for {request.method} {request.url}; scripted: {scripted}. "
            "Add one with answer(method, url, ...)",
            plugin_id=plugin_id,
        )
        # The guest may swallow it; the test's log shows it then.
        _log.warning("http.unscripted", plugin=plugin_id, reason=str(error))
        raise error
