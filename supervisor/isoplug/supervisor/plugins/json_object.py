"""Strict JSON objects, both ways: what passes here, any JSON parser reads back as the same value.

Guests' parsers (serde_json, for the Diaryx plugins) refuse NaN, infinities, lone surrogates and nesting
beyond 128 levels; so do these functions, at the edge, where it can still be said what was wrong. Both raise
``ValueError`` with words that complete "the file ...".
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from pydantic_core import from_json

__all__ = ["MAX_DEPTH", "dump_object", "parse_object"]

MAX_DEPTH: Final = 100
"""Of nested lists and objects; serde_json stops at 128, jiter (pydantic's parser) at 200."""


def parse_object(data: bytes, max_bytes: int) -> dict[str, Any]:
    """The JSON object in ``data`` (UTF-8, at most ``max_bytes``)."""
    if len(data) > max_bytes:
        raise ValueError(f"is {len(data)} bytes long, the limit is {max_bytes}")
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
    _check(value, "", 1)
    return value


def dump_object(value: dict[str, Any], max_bytes: int) -> bytes:
    """``value`` as indented JSON with a final newline, at most ``max_bytes``."""
    if not isinstance(value, dict):
        raise ValueError(f"must be an object (dict), not {type(value).__name__}")
    _check(value, "", 1)
    data = (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()
    if len(data) > max_bytes:
        raise ValueError(f"would be {len(data)} bytes long, the limit is {max_bytes}")
    return data


def _check(value: object, where: str, depth: int) -> None:
    """Refuse what JSON has no word for; ``where`` is the path so far. Its depth bound also ends cycles."""
    match value:
        case None | bool():
            pass
        case str():
            _check_text(value, where)
        case int():
            if value.bit_length() > 1024:  # no double holds more, and CPython converts long ones in quadratic time
                raise ValueError(f"has a number that is too large at {where!r}")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"has the number {value} at {where!r}, which JSON does not have")
        case dict() | list() | tuple() if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        case dict():
            for key, member in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"has the key {key!r} below {where!r}, keys must be text")
                _check_text(key, where)
                _check(member, f"{where}.{key}" if where else key, depth + 1)
        case list() | tuple():
            for index, member in enumerate(value):
                _check(member, f"{where}[{index}]", depth + 1)
        case _:
            raise ValueError(f"has a {type(value).__name__} at {where!r}, which is not a JSON value")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has text with a lone surrogate at {where!r}, which is not Unicode") from error


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {list: "array", str: "string", int: "number", float: "number"}.get(type(value), "null")
