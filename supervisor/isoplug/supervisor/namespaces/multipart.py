"""Reads a multipart body (RFC 2046, section 5.1) whose parts are bytes of any kind.

The standard library's e-mail parser reads the parts' headers. It does not cut the body: it takes parts for text with
lines, and one that is itself of type ``multipart`` or ``message`` for something to take apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from email.utils import collapse_rfc2231_value
from typing import Final

from isoplug.shared.errors import ServiceError

__all__ = ["Part", "boundary_of", "parse_multipart"]

_MAX_HEADER_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """``file_name`` is that of the part's ``Content-Disposition``."""

    headers: Message
    content: bytes = field(repr=False)

    @property
    def file_name(self) -> str | None:
        value = self.headers.get_param("filename", None, "content-disposition")
        return None if value is None else collapse_rfc2231_value(value)


def boundary_of(content_type: str) -> str | None:
    """The boundary that a ``Content-Type`` names; None when it is not a multipart one, or names none."""
    headers = Message()
    headers["content-type"] = content_type
    return (headers.get_boundary() or None) if headers.get_content_maintype() == "multipart" else None


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


def _read_headers(body: bytes, position: int) -> tuple[Message, int]:
    """The headers behind a delimiter, and where the content begins."""
    while body[position : position + 1] in (b" ", b"\t"):
        position += 1
    end = body.find(b"\r\n\r\n", position, position + _MAX_HEADER_BYTES)
    if not body.startswith(b"\r\n", position) or end < 0:
        raise _broken("a part's headers do not end")
    text = body[position + 2 : max(end, position + 2)].decode("utf-8", "replace")
    return HeaderParser().parsestr(text), end + 4


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
        following = body[found + 2 + len(delimiter) :][:2]
        if following in (b"\r\n", b"--") or following[:1] in (b" ", b"\t"):
            return found
        start = found + 2  # a longer word that begins like the boundary
    raise _broken("it is cut off")


def _broken(what: str) -> ServiceError:
    return ServiceError(f"the server's multipart answer is broken: {what}")
