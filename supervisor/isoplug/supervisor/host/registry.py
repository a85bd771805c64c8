"""How a host function is declared, and the one path every call of one takes.

    @host_function("host_read_file", PathRequest, refuse=envelope)
    def read_file(context: HostContext, request: PathRequest) -> bytes: ...

The path: bound the input, parse it into the request's model, run the function, encode what it returns, and bound that
as well. Whatever goes wrong is answered in the function's own error form (``refuse``); a function without one aborts
the guest's call with ``GuestAbort``. Nothing else leaves here, whatever a guest sends and whatever a service raises.
What a call was about, how it ended and what it has changed stands in the context's note afterwards.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from isoplug.shared.errors import PermissionDenied, PluginError, ResourceLimitExceeded, ServiceError
from isoplug.shared.limits import clip
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.json_bounds import has_more_tokens
from isoplug.supervisor.observe.logs import get_logger

__all__ = [
    "HOST_FUNCTIONS",
    "NAME_BYTES",
    "GuestAbort",
    "HostFunction",
    "Nothing",
    "Refuse",
    "Request",
    "as_data",
    "constant",
    "envelope",
    "error_string",
    "from_base64",
    "host_function",
    "to_json",
]

_log = get_logger(__name__)

#: Largest input of a function that takes names, not contents.
NAME_BYTES = 64 * 1024

#: Texts, lists, objects and commas in a larger input: 32 MiB of content take 20 ms to parse, 32 MiB of empty headers
#: took three seconds.
_MAX_TOKENS = 200_000

Refuse: TypeAlias = Callable[[str], bytes]


class GuestAbort(Exception):
    """The guest's call has to end here: its input makes no sense and the function has no way to say so."""


#: Held while a validator is built.
_building = threading.Lock()


class Request(BaseModel):
    """Base of the requests: exact types, unknown fields ignored (newer guests may send more).

    The validator of each is built with the first request of its kind: those of all together take longer than a plugin
    to start, and one run asks for few of them.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", defer_build=True)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Raises ValidationError; pydantic's JSON parser bounds nesting and refuses broken UTF-8."""
        if not cls.__pydantic_complete__:
            with _building:  # pydantic would build it by itself, older versions of it for one thread only
                cls.model_rebuild()
        return cls.model_validate_json(payload)

    def about(self) -> str:
        """What it is about, for records: a path, a key, a URL without its query; no contents, no secrets."""
        return ""


class Nothing(Request):
    """For functions that take no input: whatever was sent is not looked at."""

    model_config = ConfigDict(defer_build=False)  # it is made without being parsed

    @classmethod
    def parse(cls, _payload: bytes) -> Self:
        return cls()


_R = TypeVar("_R", bound=Request)


@dataclass(frozen=True, slots=True)
class HostFunction:
    """One entry of the import table. ``is_notice``: the guest waits for nothing, the worker sends and goes on.
    ``effect`` is what a call that succeeds has changed (``CallRecord.effects``); None: nothing. ``is_noted``: it is
    among the record's host calls."""

    name: str
    request: type[Request]
    function: Callable[[HostContext, Any], Any]
    refuse: Refuse | None
    max_input_bytes: int | None
    is_notice: bool
    effect: str | None
    is_noted: bool

    def run(self, context: HostContext, payload: bytes) -> bytes:
        """Answer one host call. Raises GuestAbort, and nothing else."""
        note = context.note
        try:
            request = self._parse(context, payload)
            note.target = request.about()
            answer = _fitting(context, _encode(self.function(context, request)))
        except PermissionDenied as error:
            _log.info("permission.denied", plugin=context.plugin_id, function=self.name, reason=str(error))
            note.denied(error)
            return self._fail(str(error))
        except ServiceError as error:
            note.failed(error)
            return self._fail(f"{self.name}: {error}")
        except PluginError as error:  # of another plugin's command: that plugin's own words
            note.failed(error)
            return self._fail(error.message)
        except Exception:  # noqa: BLE001  a service of the host's own may raise anything; no guest may see it
            _log.exception("host_function.failed", plugin=context.plugin_id, function=self.name)
            note.broke()
            return self._fail(f"{self.name}: internal error of the host; its log says why")
        note.succeeded()
        return answer

    def _parse(self, context: HostContext, payload: bytes) -> Request:
        bound = context.services.frame_bytes if self.max_input_bytes is None else self.max_input_bytes
        if len(payload) > bound:
            raise ServiceError(f"malformed input: {len(payload)} bytes, the limit is {bound}")
        if self.max_input_bytes is None and len(payload) > NAME_BYTES and has_more_tokens(payload, _MAX_TOKENS):
            raise ServiceError(f"malformed input: more than {_MAX_TOKENS} values and commas")
        try:
            return self.request.parse(payload)
        except ValidationError as error:
            raise ServiceError(f"malformed input: {_first_problem(error)}") from error

    def _fail(self, message: str) -> bytes:
        if self.refuse is None:
            raise GuestAbort(clip(message))
        return self.refuse(clip(message))


#: The import table of every guest, by name; the modules of this package fill it when they are imported.
HOST_FUNCTIONS: dict[str, HostFunction] = {}


def host_function(
    name: str,
    request: type[_R],
    *,
    refuse: Refuse | None,
    max_input_bytes: int | None = NAME_BYTES,
    is_notice: bool = False,
    effect: str | None = None,
    is_noted: bool = True,
) -> Callable[[Callable[[HostContext, _R], Any]], Callable[[HostContext, _R], Any]]:
    """Register the decorated function as ``name``. It may return bytes, text, None (empty) or something for JSON, and
    may raise any PluginError. ``max_input_bytes=None`` allows as much as a frame holds. See HostFunction for the
    others."""

    def register(function: Callable[[HostContext, _R], Any]) -> Callable[[HostContext, _R], Any]:
        assert name not in HOST_FUNCTIONS, name
        HOST_FUNCTIONS[name] = HostFunction(
            name, request, function, refuse, max_input_bytes, is_notice, effect, is_noted
        )
        return function

    return register


# --- error forms (SPEC section 5) ---------------------------------------------------------------------------------


def error_string(message: str) -> bytes:
    """A non-empty plain string; the empty one is success."""
    return message.encode("utf-8", "replace")


def envelope(message: str) -> bytes:
    """``{"error":"..."}``: guests test for the prefix, so ``error`` comes first and there is no white space."""
    return to_json({"error": message})


def constant(answer: bytes) -> Refuse:
    """The same answer whatever went wrong: the function shows a guest nothing of what it may not see."""
    return lambda _message: answer


#: Made once: ``json.dumps`` makes one a call unless it is told nothing.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_json(value: Any) -> bytes:
    return _JSON.encode(value).encode("utf-8", "replace")


def as_data(content: bytes) -> bytes:
    """``{"data": base64}`` as JSON, put together from bytes: base64 needs no escapes, and finding that out for each
    letter of a megabyte takes longer than all the rest."""
    return b'{"data":"%b"}' % base64.b64encode(content)


def _encode(answer: Any) -> bytes:
    if answer is None:
        return b""
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, str):
        return answer.encode("utf-8", "replace")
    return to_json(answer)


def from_base64(text: str, field: str) -> bytes:
    """The bytes of a request's ``field``. Raises ServiceError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServiceError(f"malformed input: {field}: not base64 ({error})") from error


def _fitting(context: HostContext, answer: bytes) -> bytes:
    bound = context.services.frame_bytes
    if len(answer) > bound:
        raise ResourceLimitExceeded(
            context.plugin_id,
            "the size of the answer in bytes",
            len(answer),
            bound,
            "ask for less at once, or let the host raise limits.frame",
        )
    return answer


def _first_problem(error: ValidationError) -> str:
    """Where and what, without the guest's value: it may be long, and it may be a secret."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
