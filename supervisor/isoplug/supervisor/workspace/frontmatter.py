"""YAML front matter of a Markdown file, read as strings, lists and mappings and nothing else.

The text comes from files that guests may write, and permissions are read from it, so the reader does less than
YAML can: it builds values from parser events with a stack of its own. There are no constructors that could raise,
no dates or numbers, no anchors and aliases (bombs, and of no use here), no duplicate keys (two readers would
disagree about which one counts) and no deep nesting. Every failure is a `FrontmatterError` that names the line.

The front matter is what stands between a first line ``---`` and the next line ``---``, both without trailing
blanks, as in the reference; LF or CRLF, with or without a byte order mark. The only module that imports
``yaml``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeAlias

import yaml

from isoplug.shared.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HEAD_BYTES", "FrontmatterError", "Value", "is_empty", "parse", "read", "split"]

Value: TypeAlias = "str | list[Value] | dict[str, Value]"

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 20_000
"""Twice the links that fit; a guest that packs the bytes with empty lists would hold the interpreter for long."""
HEAD_BYTES: Final = MAX_BYTES + 64
"""So much of a file decides what its front matter is: `parse` says the same of this much and of the whole
file."""

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?---\r?\n")
_CLOSING = re.compile(rb"^---\r?(?:\n|\Z)", re.MULTILINE)
# libyaml's parser where PyYAML was built with it; its marks are another class without a common base.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Mark(Protocol):
    @property
    def line(self) -> int: ...


class FrontmatterError(ServiceError):
    """The front matter cannot be read; ``line`` is the line in the file, from 1, when one is to blame.

    ``is_unterminated`` tells a file that merely begins with a thematic break from one that has broken front
    matter.
    """

    code = "frontmatter_error"

    def __init__(self, problem: str, line: int | None = None, *, is_unterminated: bool = False) -> None:
        where = f"line {line}: " if line is not None else ""
        super().__init__(f"malformed front matter: {where}{problem}")
        self.line, self.is_unterminated = line, is_unterminated


def split(data: bytes) -> bytes | None:
    """The YAML between the ``---`` lines, or None when the file does not begin with one.

    Raises:
        FrontmatterError: the closing line is missing, or further away than 256 KiB.
    """
    opening = _OPENING.match(data)
    if opening is None:
        return None
    start = opening.end()
    # The regular expression sees a little more than the limit, so that a line cut in two is never taken for a
    # closing line: anything that `--- ` might go on to be fits into the extra bytes.
    closing = _CLOSING.search(data[: start + MAX_BYTES + 8], start)
    if closing is not None and closing.start() - start <= MAX_BYTES:
        return data[start : closing.start()]
    is_terminated = _CLOSING.search(data, start) is not None
    if is_terminated or len(data) - start > MAX_BYTES:
        raise FrontmatterError(f"it is longer than {MAX_BYTES} bytes", 1, is_unterminated=not is_terminated)
    raise FrontmatterError("it is opened by '---' and never closed", 1, is_unterminated=True)


def parse(data: bytes) -> dict[str, Value]:
    """Front matter of a file's bytes; empty when there is none. Every scalar is a string.

    Raises:
        FrontmatterError: not UTF-8, not YAML, not a mapping, duplicate keys, anchors, too long or too deep.
    """
    source = split(data)
    if source is None:
        return {}
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 2
        raise FrontmatterError("it is not valid UTF-8", line) from error
    try:
        return _build(text)
    except yaml.YAMLError as error:
        raise _from_yaml(error, text) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise FrontmatterError(f"it cannot be read ({type(error).__name__})") from error


def read(stream: BinaryIO) -> dict[str, Value]:
    """`parse` of as much of ``stream`` as matters; a huge file is not read to its end."""
    return parse(stream.read(HEAD_BYTES))


def is_empty(value: object) -> bool:
    """Whether a value is YAML's nothing. Strings-only reading leaves no difference between ``null`` and
    ``"null"``."""
    return value in ("", "~", "null", "Null", "NULL", [], {}, None)


def _build(text: str) -> dict[str, Value]:
    builder = _Builder()
    for event in _events(text):
        builder.take(event)
    if builder.root is None or is_empty(builder.root):
        return {}
    if not isinstance(builder.root, dict):
        raise FrontmatterError("it is not a mapping of names to values", 2)
    return builder.root


def _events(text: str) -> Iterator[yaml.Event]:
    yield from yaml.parse(text, Loader=_Loader)


class _Builder:
    """Values from events. ``open`` holds the collections being filled, outermost first; ``keys`` the key that
    each of them waits to give a value to (None: a list, or a mapping that expects a key next)."""

    def __init__(self) -> None:
        self.root: Value | None = None
        self.open: list[list[Value] | dict[str, Value]] = []
        self.keys: list[str | None] = []
        self.values = 0

    def take(self, event: yaml.Event) -> None:
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise FrontmatterError("anchors and aliases are not supported", line)
        if isinstance(event, yaml.ScalarEvent):
            self.place(event.value, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.begin([], line)
        elif isinstance(event, yaml.MappingStartEvent):
            self.begin({}, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.keys.pop()
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise FrontmatterError("it contains more than one YAML document", line)

    def begin(self, collection: list[Value] | dict[str, Value], line: int | None) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise FrontmatterError(f"it is nested deeper than {MAX_DEPTH} levels", line)
        self.place(collection, line)
        self.open.append(collection)
        self.keys.append(None)

    def place(self, value: Value, line: int | None) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise FrontmatterError(f"it has more than {MAX_VALUES} values", line)
        if not self.open:
            self.root = value
            return
        collection = self.open[-1]
        if isinstance(collection, list):
            collection.append(value)
        elif (key := self.keys[-1]) is not None:
            collection[key] = value
            self.keys[-1] = None
        elif not isinstance(value, str):
            raise FrontmatterError("a key is a list or a mapping; if this is a Markdown link, quote it", line)
        elif value in collection:
            raise FrontmatterError(f"the key {value[:100]!r} stands twice", line)
        else:
            self.keys[-1] = value


def _line(mark: _Mark | None) -> int | None:
    return None if mark is None else mark.line + 2  # from 0, and the `---` above it


def _from_yaml(error: yaml.YAMLError, text: str) -> FrontmatterError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return FrontmatterError(error.problem or error.context or "not YAML", _line(mark))
    position = getattr(error, "position", None)
    line = text.count("\n", 0, position) + 2 if isinstance(position, int) and position >= 0 else None
    return FrontmatterError(str(getattr(error, "reason", None) or "not YAML"), line)
