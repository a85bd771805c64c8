"""What is left out of recordings: secrets, as far as they can be known. No I/O.

By place: the values of secrets, the token of the runtime context, headers and query parameters that carry credentials.
By value: what has been seen in such a place is left out wherever it comes again, also in a call's own input, in a log
line, or in a later call, as long as it is long enough not to be an ordinary word.

A placeholder of the same type stands where it was. A call that is run again is handed the placeholder; what its guest
then asks for has it in the same places, or goes through the same rules here before it is compared.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from isoplug.supervisor.host.registry import to_json
from isoplug.supervisor.recording.tape import Ending, HostCall, Step

__all__ = ["REDACTED", "KnownSecrets", "TooMuchToScrub", "redacted_request"]

#: Where what stood there does not matter to the guest.
REDACTED = "isoplug-redacted"

#: Shorter ones may be ordinary words, and are left out by place only.
_LEAST_CHARACTERS = 8
#: The latest ones; a plugin decides how many there are.
_MOST_KNOWN = 256
#: Bytes to be looked through, times secrets to be looked for: about a second. A plugin decides on both.
_MOST_WORK = 1 << 29
#: Of a step, beside its contents.
_PART_BYTES = 64
#: A placeholder may be longer than a short secret, and have another secret in it, if a plugin wants that.
_MOST_GROWTH, _LEAST_GROWN_BYTES = 2, 256
_CREDENTIAL = re.compile(
    r"authorization|cookie|token|secret|passw|credential|signature|session|api[-_]?key|access[-_]?key|^key$|^sig$|^auth$",
    re.IGNORECASE,
)


class TooMuchToScrub(Exception):
    """To look for all secrets would take too long, or leave too much."""


class KnownSecrets:
    """Thread-safe. Secrets that were seen in their places, in memory only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._placeholders: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._needles: tuple[tuple[bytes, bytes], ...] = ()
        self._count = 0

    def learn(self, value: str, plugin_id: str = "") -> str:
        """The placeholder for it, which has its length if it can. When there are too many, the oldest one goes of the
        plugin that has the most: none can have those of others forgotten."""
        with self._lock:
            known = self._placeholders.get(value)
            if known is not None:
                return known
            self._count += 1
            placeholder = f"isoplug-secret-{self._count}".ljust(len(value), "x")
            if len(value) >= _LEAST_CHARACTERS:
                self._placeholders[value], self._owners[value] = placeholder, plugin_id
                if len(self._placeholders) > _MOST_KNOWN:
                    ((most, _),) = Counter(self._owners.values()).most_common(1)
                    oldest = next(one for one, owner in self._owners.items() if owner == most)
                    del self._placeholders[oldest], self._owners[oldest]
                self._needles = _needles(self._placeholders)
            return placeholder

    def scrub(self, data: bytes) -> bytes:
        """With the placeholders of all that is known. Raises TooMuchToScrub."""
        needles, most_bytes = self._needles, max(_LEAST_GROWN_BYTES, len(data) * _MOST_GROWTH)
        _require_little_work(len(data), needles)
        for needle, placeholder in needles:
            if needle in data:
                data = data.replace(needle, placeholder)
                if len(data) > most_bytes:
                    raise TooMuchToScrub
        return data

    def scrub_text(self, text: str) -> str:
        """As ``scrub``."""
        if not self._needles:
            return text
        return self.scrub(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def scrub_steps(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """Raises TooMuchToScrub."""
        _require_little_work(sum(map(_bytes_of, steps)), self._needles)
        return tuple(map(self._scrub_step, steps))

    def _scrub_step(self, step: Step) -> Step:
        if not self._needles:
            return step
        calls = (
            HostCall(
                call.function,
                self.scrub(call.request),
                self.scrub(call.answer),
                call.unanswered,
                self.scrub_text(call.text),
            )
            for call in step.host_calls
        )
        ending = step.ending
        scrubbed = Ending(
            ending.kind, self.scrub(ending.output), self.scrub_text(ending.text), self.scrub_text(ending.cause)
        )
        return Step(step.export, self.scrub(step.data), tuple(calls), scrubbed)

    def note(self, function: str, request: bytes, answer: bytes, plugin_id: str = "") -> tuple[bytes, bytes]:
        """Learn what there is in a host call, and return both without it."""
        redact_answer = _ANSWERS.get(function)
        if function in _REQUESTS:
            for secret in _secrets_in(function, request):
                self.learn(secret, plugin_id)
            request = redacted_request(function, request)
        return request, answer if redact_answer is None else redact_answer(self, answer, plugin_id)


def redacted_request(function: str, request: bytes) -> bytes:
    """What a guest asked, without the credentials in it; of what is no JSON nothing is left. Idempotent."""
    redact = _REQUESTS.get(function)
    if redact is None:
        return request
    parsed = _object(request)
    if parsed is None:
        return REDACTED.encode()
    redact(parsed)
    return _json(parsed)


def _needles(placeholders: dict[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Each secret as it is, and as it stands in JSON; the longest first, since one may be part of another."""
    found: dict[bytes, bytes] = {}
    for value, placeholder in placeholders.items():
        for text in (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
            found[text.encode("utf-8", "surrogatepass")] = placeholder.encode()
    return tuple(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _require_little_work(size: int, needles: tuple[tuple[bytes, bytes], ...]) -> None:
    if size * len(needles) > _MOST_WORK:
        raise TooMuchToScrub


def _bytes_of(step: Step) -> int:
    calls = sum(_PART_BYTES + len(call.request) + len(call.answer) + len(call.text) for call in step.host_calls)
    return _PART_BYTES + len(step.data) + len(step.ending.output) + len(step.ending.text) + calls


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _json(value: dict[str, Any]) -> bytes:
    """Nothing of what JSON has no words for, such as 1e999."""
    try:
        return to_json(value)
    except (ValueError, RecursionError):
        return REDACTED.encode()


# --- what guests ask ----------------------------------------------------------------------------------------------


def _secrets_in(function: str, request: bytes) -> list[str]:
    parsed = _object(request) or {}
    match function:
        case "host_secret_set":
            found = [parsed.get("value")]
        case "host_ws_request":
            found = [parsed.get("auth_token"), parsed.get("session_code")]
        case "host_namespace_sync_audience":
            found = [value for gate in _gates(parsed) for name, value in gate.items() if _is_credential(name)]
        case _:
            headers = parsed.get("headers")
            values = headers.items() if isinstance(headers, dict) else ()
            # Of "Bearer ..." the second word: a guest may have it from anywhere.
            found = [str(value).split()[-1] for name, value in values if _is_credential(name) and str(value).strip()]
    return [value for value in found if isinstance(value, str) and not value.startswith("isoplug-")]


def _redact_secret(request: dict[str, Any]) -> None:
    if "value" in request:
        request["value"] = REDACTED


def _redact_connect(request: dict[str, Any]) -> None:
    for name in ("auth_token", "session_code"):
        if request.get(name) is not None:
            request[name] = REDACTED


def _gates(request: dict[str, Any]) -> list[dict[str, Any]]:
    gates = request.get("gates")
    return [gate for gate in gates if isinstance(gate, dict)] if isinstance(gates, list) else []


def _redact_gates(request: dict[str, Any]) -> None:
    for gate in _gates(request):
        for name in filter(_is_credential, tuple(gate)):
            gate[name] = REDACTED


def _redact_http(request: dict[str, Any]) -> None:
    if isinstance(request.get("headers"), dict):
        request["headers"] = _redacted_headers(request["headers"])
    for name in ("url", "path"):
        if isinstance(request.get(name), str):
            request[name] = _redacted_url(request[name])


def _redacted_headers(headers: dict[str, Any]) -> dict[str, Any]:
    return {name: REDACTED if _is_credential(name) else value for name, value in headers.items()}


def _redacted_url(url: str) -> str:
    """User and password, and the values of query parameters that name a credential."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REDACTED
    _, at, host = parts.netloc.rpartition("@")
    pairs = (pair.partition("=") for pair in parts.query.split("&"))
    query = "&".join(
        f"{name}={REDACTED}" if _is_credential(name) else f"{name}{sep}{value}" for name, sep, value in pairs
    )
    return urlunsplit(parts._replace(netloc=f"{REDACTED}@{host}" if at else host, query=query))


def _is_credential(name: str) -> bool:
    return _CREDENTIAL.search(name) is not None


_REQUESTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "host_secret_set": _redact_secret,
    "host_ws_request": _redact_connect,
    "host_namespace_sync_audience": _redact_gates,
    "host_http_request": _redact_http,
    "host_proxy_request": _redact_http,
}


# --- what they are answered ---------------------------------------------------------------------------------------


def _without_secret(known: KnownSecrets, answer: bytes, plugin_id: str) -> bytes:
    return _learned(known, answer, "value", plugin_id)


def _without_token(known: KnownSecrets, answer: bytes, plugin_id: str) -> bytes:
    return _learned(known, answer, "auth_token", plugin_id)


def _learned(known: KnownSecrets, answer: bytes, field: str, plugin_id: str) -> bytes:
    parsed = _object(answer)
    if parsed is None or not isinstance(parsed.get(field), str):
        return answer
    return _json({**parsed, field: known.learn(parsed[field], plugin_id)})


def _without_cookies(_known: KnownSecrets, answer: bytes, _plugin_id: str) -> bytes:
    parsed = _object(answer)
    if parsed is None or not isinstance(parsed.get("headers"), dict):
        return answer
    headers = _redacted_headers(parsed["headers"])
    return answer if headers == parsed["headers"] else _json({**parsed, "headers": headers})


_ANSWERS: dict[str, Callable[[KnownSecrets, bytes, str], bytes]] = {
    "host_secret_get": _without_secret,
    "host_get_runtime_context": _without_token,
    "host_http_request": _without_cookies,
    "host_proxy_request": _without_cookies,
}
