"""Strict JSON objects, both ways: what passes here, any JSON parser reads back as the same value.

Guests' parsers (serde_json, for the Diaryx plugins) refuse NaN, infinities, lone surrogates and nesting
beyond 128 levels; so do these functions, at the edge, where it can still be said what was wrong. Both raise
``ValueError`` with words that complete "the file ...".
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from isoplug.supervisor.json_bounds import has_more_tokens

__all__ = ["MAX_DEPTH", "MAX_TOKENS", "dump_object", "parse_object"]

MAX_DEPTH: Final = 100
"""Of nested lists and objects; serde_json stops at 128, jiter (pydantic's parser) at 200."""

MAX_TOKENS: Final = 200_000
"""Texts, lists, objects and commas. Each value is looked at in Python: 1 MiB of empty lists took a second."""

_SHOWN_CHARACTERS: Final = 200


def parse_object(data: bytes, max_bytes: int) -> dict[str, Any]:
    """The JSON object in ``data`` (UTF-8, at most ``max_bytes``)."""
    if len(data) > max_bytes:
        raise ValueError(f"is {len(data)} bytes long, the limit is {max_bytes}")
    if has_more_tokens(data, MAX_TOKENS):
        raise ValueError(f"has more than {MAX_TOKENS} texts, lists, objects and commas")
    if not data.strip():
        raise ValueError("is empty, it must be a JSON object")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from error
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels") from error
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"is a JSON {_kind(value)}, it must be an object")
    _check(value, None, 1)
    return value


def dump_object(value: dict[str, Any], max_bytes: int) -> bytes:
    """``value`` as indented JSON with a final newline, at most ``max_bytes``."""
    if not isinstance(value, dict):
        raise ValueError(f"must be an object (dict), not {type(value).__name__}")
    _check(value, None, 1)
    # Piece by piece: indented, a deep value can take a hundred times its bytes.
    pieces, size = [], 1
    for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2).iterencode(value):
        encoded = piece.encode()
        size += len(encoded)
        if size > max_bytes:
            raise ValueError(f"would be longer than allowed, the limit is {max_bytes} bytes")
        pieces.append(encoded)
    return b"".join((*pieces, b"\n"))


class _Place(NamedTuple):
    """Where in a value: joined for a message only, since a guest's keys may be long and its lists longer."""

    above: _Place | None
    key: str | int

    def __str__(self) -> str:
        steps = []
        place: _Place | None = self
        while place is not None:
            steps.append(f"[{place.key}]" if isinstance(place.key, int) else f".{place.key[:_SHOWN_CHARACTERS]}")
            place = place.above
        return "".join(reversed(steps)).removeprefix(".")[:_SHOWN_CHARACTERS]


def _shown(where: _Place | None) -> str:
    return repr("" if where is None else str(where))


def _check(value: object, where: _Place | None, depth: int) -> None:
    """Refuse what JSON has no word for; ``where`` is the path so far. Its depth bound also ends cycles."""
    match value:
        case None | bool():
            pass
        case str():
            _check_text(value, where)
        case int():
            if value.bit_length() > 1024:  # no double holds more, and CPython converts long ones in quadratic time
                raise ValueError(f"has a number that is too large at {_shown(where)}")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"has the number {value} at {_shown(where)}, which JSON does not have")
        case dict() | list() | tuple() if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        case dict():
            for key, member in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"has the key {key!r} below {_shown(where)}, keys must be text")
                _check_text(key, where)
                _check(member, _Place(where, key), depth + 1)
        case list() | tuple():
            for index, member in enumerate(value):
                _check(member, _Place(where, index), depth + 1)
        case _:
            raise ValueError(f"has a {type(value).__name__} at {_shown(where)}, which is not a JSON value")


def _check_text(text: str, where: _Place | None) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has text with a lone surrogate at {_shown(where)}, which is not Unicode") from error


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {list: "array", str: "string", int: "number", float: "number"}.get(type(value), "null")
