"""How to speak to a service: the protocol of its control socket.

``control.sock`` in the service's state folder is a stream socket of the Unix domain, for the service's own user and
root. Both sides send JSON objects in UTF-8, one a line, of at most 8 MiB. A client sends a request, reads one line of
answer, and may then send the next; requests on one connection are answered in their order, those on several
connections at the same time::

    {"v": 1, "request": "call", "plugin": "diaryx.words", "command": "count", "params": {"path": "a.md"}}
    {"v": 1, "ok": {"data": {"words": 12}}}

    {"v": 1, "request": "reset", "plugin": "nobody"}
    {"v": 1, "error": {"code": "plugin_not_found", "message": "no plugin 'nobody' is loaded; loaded: ...", ...}}

``v`` is the protocol's version; another one than 1 is refused. The requests, with what ``ok`` holds:

=================== ============================================== =====================================================
request             further fields                                 ok
=================== ============================================== =====================================================
ping                                                               pid, version, phase, call_timeout_seconds,
                                                                   shutdown_timeout_seconds
status                                                             service, plugins, poisoned (plugin → how many
                                                                   inputs), load_errors
call                plugin, command, params?, files? (key → base64) data, record
                    timeout? (seconds), retries?, strict?
reset               plugin                                         nothing
cancel              plugin, token                                  nothing
poisoned            plugin?                                        inputs: plugin_id, fingerprint, what, strikes,
                                                                   last_failure, at
clear_poisoned      plugin, fingerprint?                           cleared (how many)
reload                                                             loaded, upgraded, unloaded, configured, refused,
                                                                   config (applied, needs_restart)
drain                                                              nothing, when everything has ended
=================== ============================================== =====================================================

``error`` has the fields of isoplug's own error: ``code``, ``message``, ``plugin_id``, ``outcome`` (what the call had
done: ``not_delivered``, ``no_effects`` or ``effects``), ``retryable``, under ``facts`` those of its class, and for a
call its ``record``: ``attempts``, and the ``effects``, ``denials``, last ``host_calls`` and ``log`` lines.

A client that closes its connection during a call cancels that call; one that only shuts down its writing side still
gets its answer. A line that is not complete after 30 s, is too long, or comes from a client that does not read its
answers, ends its connection. Of more than 64 connections the one that has been idle for longest is closed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from isoplug.shared.errors import CrashReason, InvalidArgument, PluginError, ResourceLimitExceeded
from isoplug.shared.record import CallRecord, Outcome
from isoplug.supervisor.plugins.json_object import parse_object

__all__ = [
    "MAX_LINE_BYTES",
    "VERSION",
    "Call",
    "Cancel",
    "ClearPoisoned",
    "Drain",
    "ListPoisoned",
    "Ping",
    "Reload",
    "Request",
    "Reset",
    "Status",
    "dump_line",
    "error_from",
    "failure",
    "parse_request",
    "record_json",
    "success",
]

VERSION: Final = 1
MAX_LINE_BYTES = 8 << 20


# --- requests ---------------------------------------------------------------------------------------------------------


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    v: Literal[1] = VERSION


class Ping(_Request):
    request: Literal["ping"] = "ping"


class Status(_Request):
    request: Literal["status"] = "status"


class Call(_Request):
    request: Literal["call"] = "call"
    plugin: str
    command: str
    params: Any = None
    files: dict[str, str] = {}
    timeout: float | None = None
    retries: int = 0
    strict: bool = False


class Reset(_Request):
    request: Literal["reset"] = "reset"
    plugin: str


class Cancel(_Request):
    request: Literal["cancel"] = "cancel"
    plugin: str
    token: str


class ListPoisoned(_Request):
    request: Literal["poisoned"] = "poisoned"
    plugin: str | None = None


class ClearPoisoned(_Request):
    request: Literal["clear_poisoned"] = "clear_poisoned"
    plugin: str
    fingerprint: str | None = None


class Reload(_Request):
    request: Literal["reload"] = "reload"


class Drain(_Request):
    request: Literal["drain"] = "drain"


Request: TypeAlias = Ping | Status | Call | Reset | Cancel | ListPoisoned | ClearPoisoned | Reload | Drain
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="request")])


def parse_request(line: bytes) -> Request:
    """Raises InvalidArgument."""
    try:
        value = parse_object(line, MAX_LINE_BYTES)
    except ValueError as error:
        raise InvalidArgument(f"the request {error}") from error
    if value.get("v") != VERSION:
        raise InvalidArgument(
            f'the service speaks version {VERSION} of the protocol: "v" must be {VERSION}; use the isoplug that the '
            "service was started with"
        )
    try:
        return _REQUEST.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise InvalidArgument(f"the request cannot be used: {where}: {problem['msg']}") from error


# --- lines ------------------------------------------------------------------------------------------------------------


def dump_line(value: dict[str, Any]) -> bytes:
    """Raises ResourceLimitExceeded; ValueError and RecursionError for what JSON has no word for."""
    text = json.dumps({"v": VERSION, **value}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A name of a folder may be no Unicode; what Python writes in its place is JSON's own escape for it.
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ResourceLimitExceeded(
            None,
            "the size in bytes of a message between isoplug and its service",
            len(line),
            MAX_LINE_BYTES,
            "make the call without --attach, or let the plugin exchange files through the workspace",
        )
    return line


def success(result: dict[str, Any]) -> bytes:
    """Raises as ``dump_line``."""
    return dump_line({"ok": result})


def failure(error: PluginError) -> bytes:
    return dump_line({"error": _error_json(error)})


# --- errors -----------------------------------------------------------------------------------------------------------

#: Of ``vars(error)``: said elsewhere, or no JSON.
_NO_FACTS = frozenset({"message", "crash_report", "plugin_id", "outcome", "record"})
_PLAIN = (str, int, float, bool, type(None))


def record_json(record: CallRecord) -> dict[str, Any]:
    return {
        "attempts": record.attempts,
        "effects": [asdict(effect) for effect in record.effects],
        "denials": [asdict(denial) for denial in record.denials],
        "host_calls": [asdict(entry) for entry in record.host_calls],
        "log": [asdict(line) for line in record.log],
    }


def _error_json(error: PluginError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": str(error),
        "plugin_id": error.plugin_id,
        "outcome": error.outcome.value,
        "retryable": error.retryable,
        "facts": {k: v for k, v in vars(error).items() if k not in _NO_FACTS and isinstance(v, _PLAIN)},
        **({} if error.record is None else {"record": record_json(error.record)}),
    }


def error_from(value: dict[str, Any]) -> PluginError:
    """The error that the service meant, of its class and with its words, but for the record. A class that is not known
    here becomes a PluginError with that code."""
    kind = _classes().get(value["code"], PluginError)
    error = kind.__new__(kind, value["message"])
    facts = dict(value["facts"])
    if "reason" in facts:
        facts["reason"] = CrashReason(facts["reason"])
    error.__dict__.update(facts, message=value["message"], plugin_id=value["plugin_id"])
    error.outcome = Outcome(value["outcome"])
    if kind is PluginError:
        error.__dict__["code"] = value["code"]
    return error


def _classes(root: type[PluginError] = PluginError) -> dict[str, type[PluginError]]:
    below = [_classes(kind) for kind in root.__subclasses__()]
    return {root.code: root} | {code: kind for table in below for code, kind in table.items()}
