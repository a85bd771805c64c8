"""What guests may call namespaces, objects and audiences. The same for every provider, so that a guest that works with
the one works with the other.

Names become parts of a URL's path, and an object's key becomes several, cut at its slashes. A part that URL parsers
resolve (``..``) or drop (an empty one) would name something else, for example an audience; so would one that only looks
like ``..`` after some proxy has decoded it once too often.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError

__all__ = [
    "MAX_BATCH_KEYS",
    "MAX_KEY_BYTES",
    "MAX_NAME_BYTES",
    "check_key",
    "check_keys",
    "check_line",
    "check_mime_type",
    "check_name",
    "json_text",
]

MAX_KEY_BYTES: Final = 1024
"""Of an object's key in UTF-8; what S3 and R2 take."""

MAX_NAME_BYTES: Final = 256
"""Of a namespace's id and an audience's name in UTF-8."""

MAX_BATCH_KEYS: Final = 10_000
"""In one batch call; the sync plugin asks for some hundreds."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SLASHES = re.compile(r"[/\\]")
_MIME_TYPE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


def check_name(name: str, what: str) -> str:
    """``name``, when it can be a namespace's id or an audience's name. Raises ServiceError, ResourceLimitExceeded."""
    check_line(name, what, MAX_NAME_BYTES)
    if not name or _leads_elsewhere(name):
        raise ServiceError(f"malformed input: {what}: {name!r} is not a name")
    return name


def check_key(key: str) -> str:
    """``key``, when it can be an object's. Raises ServiceError, ResourceLimitExceeded."""
    check_line(key, "key", MAX_KEY_BYTES)
    if "" in key.split("/") or _leads_elsewhere(key):
        raise ServiceError("malformed input: key: its parts between slashes must not be empty, '.' or '..'")
    return key


def check_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The keys, each once. Raises ServiceError, ResourceLimitExceeded."""
    if len(keys) > MAX_BATCH_KEYS:
        raise ResourceLimitExceeded(None, "the number of keys", len(keys), MAX_BATCH_KEYS, "ask for fewer at once")
    return tuple(dict.fromkeys(map(check_key, keys)))


def check_mime_type(mime_type: str) -> str:
    """``mime_type``, when it can be the value of a ``Content-Type`` header. Raises ServiceError."""
    if not _MIME_TYPE.fullmatch(mime_type):
        raise ServiceError("malformed input: mime_type: must be 1 to 255 printable ASCII characters")
    return mime_type


def check_line(text: str, what: str, bound_bytes: int) -> str:
    """``text``, when it is one line of at most that many bytes. Raises ServiceError, ResourceLimitExceeded."""
    if _CONTROL.search(text):
        raise ServiceError(f"malformed input: {what}: contains a control character or a line's end")
    size_bytes = len(text.encode())
    if size_bytes > bound_bytes:
        raise ResourceLimitExceeded(None, f"the length of {what} in bytes", size_bytes, bound_bytes)
    return text


def json_text(value: Any) -> str:
    """``value`` as compact JSON. Raises ServiceError for numbers that JSON, or Python, cannot write."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # NaN, and whole numbers of more than 4,300 digits
        raise ServiceError("malformed input: it holds a number that cannot be kept") from error


def _leads_elsewhere(path: str) -> bool:
    while path != (decoded := unquote(path)):
        path = decoded
    return any(part.partition(";")[0] in (".", "..") for part in _SLASHES.split(path))
