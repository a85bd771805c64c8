"""Reads a multipart body (RFC 2046, section 5.1) whose parts are bytes of any kind.

Not with the standard library's e-mail package: it takes parts for text with lines, and one that is itself of type
``multipart`` or ``message`` for something to take apart. Of headers that are made for it, it takes time that grows with
the square of their length, or codecs that raise anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from isoplug.shared.errors import ServiceError

__all__ = ["Part", "boundary_of", "parse_multipart"]

_MAX_HEADER_BYTES: Final = 16 * 1024
_MAX_HEADERS: Final = 32

_FOLD: Final = re.compile(r"\r\n[ \t]+")
#: One parameter of a header's value. A quoted one may end in a backslash that escapes nothing (servers forget to escape
#: it), when it is the last. Each character is looked at a few times at most: what one match fails on, no other begins.
_PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|"(.*)"$|([^;"]*))')


@dataclass(frozen=True, slots=True)
class Part:
    """``headers`` have names in lower case; ``file_name`` is that of the part's ``Content-Disposition``."""

    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def file_name(self) -> str | None:
        parameters = _parameters(self.headers.get("content-disposition", ""))
        charset, _, encoded = parameters.get("filename*", "").partition("'")
        if charset.lower() == "utf-8":  # RFC 8187
            return unquote(encoded.partition("'")[2], errors="replace")
        return parameters.get("filename")


def boundary_of(content_type: str) -> str | None:
    """The boundary that a ``Content-Type`` names; None when it is not a multipart one, or names none."""
    is_multipart = content_type.strip().lower().startswith("multipart/")
    return (_parameters(content_type).get("boundary") or None) if is_multipart else None


def parse_multipart(body: bytes, boundary: str, max_parts: int) -> list[Part]:
    """The parts in order. One that says its ``Content-Length`` may hold anything, also the boundary.

    Raises:
        ServiceError: it is cut off or malformed, or has more than ``max_parts``.
    """
    delimiter = b"--" + boundary.encode("utf-8", "replace")
    position = 0 if body.startswith(delimiter) else _find_delimiter(body, delimiter, 0) + 2
    position += len(delimiter)
    parts: list[Part] = []
    while not body.startswith(b"--", position):
        if len(parts) == max_parts:
            raise _broken(f"it has more than {max_parts} parts")
        headers, start = _read_headers(body, position)
        end = _end_of_content(body, delimiter, start, headers.get("content-length"))
        parts.append(Part(headers, body[start:end]))
        position = end + 2 + len(delimiter)
    return parts


def _read_headers(body: bytes, position: int) -> tuple[dict[str, str], int]:
    """The headers behind a delimiter, and where the content begins."""
    while body[position : position + 1] in (b" ", b"\t"):
        position += 1
    end = body.find(b"\r\n\r\n", position, position + _MAX_HEADER_BYTES)
    if not body.startswith(b"\r\n", position) or end < 0:
        raise _broken("a part's headers do not end")
    text = body[position + 2 : max(end, position + 2)].decode("utf-8", "replace")
    lines = _FOLD.sub(" ", text).split("\r\n", _MAX_HEADERS)
    if len(lines) > _MAX_HEADERS:
        raise _broken(f"a part has more than {_MAX_HEADERS} headers")
    split = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in split}, end + 4


def _parameters(value: str) -> dict[str, str]:
    """What stands behind the semicolons of a header's value; names in lower case."""
    parameters: dict[str, str] = {}
    for name, quoted, unescaped, plain in _PARAMETER.findall(value):
        text = (quoted or unescaped).replace("\\\\", "\\").replace('\\"', '"') or plain.strip()
        parameters.setdefault(name.lower(), text)
    return parameters


def _end_of_content(body: bytes, delimiter: bytes, start: int, length: str | None) -> int:
    if length is None:
        return _find_delimiter(body, delimiter, start)
    if not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise _broken("a part's Content-Length is not a number")
    end = start + int(length)
    if not body.startswith(b"\r\n" + delimiter, end):
        raise _broken("a part is not as long as it says, or is cut off")
    return end


def _find_delimiter(body: bytes, delimiter: bytes, start: int) -> int:
    """Where the line break stands that belongs to the next delimiter."""
    while (found := body.find(b"\r\n" + delimiter, start)) >= 0:
        behind = found + 2 + len(delimiter)
        following = body[behind : behind + 2]
        if following in (b"\r\n", b"--") or following[:1] in (b" ", b"\t"):
            return found
        start = found + 2  # a longer word that begins like the boundary
    raise _broken("it is cut off")


def _broken(what: str) -> ServiceError:
    return ServiceError(f"the server's multipart answer is broken: {what}")
