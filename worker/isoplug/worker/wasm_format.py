"""As much of the WebAssembly binary format as a module's bounds need: sections, numbers, limits, constant expressions.

Numbers, flags and codes are those of the specification, release 3.0, chapter "Binary Format". The bytes are an
attacker's: whatever they are, these functions return or raise Malformed, in time proportional to what they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "FUNCTION",
    "Limits",
    "Malformed",
    "Reader",
    "Section",
    "SectionId",
    "encode_name",
    "encode_number",
    "encode_section",
    "sections",
    "skip_expression",
    "skip_reference_type",
]

_HEADER = b"\0asm\x01\0\0\0"

#: What an export is of, if it is a function.
FUNCTION = 0


class SectionId:
    """Those that are looked into."""

    TABLE, MEMORY, EXPORT, START = 4, 5, 7, 8


_CUSTOM = 0
#: The places of all others; tags (13) and the count of data segments (12) are younger than their places.
_PLACES = {number: place for place, number in enumerate((1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11))}

_HAS_MAXIMUM, _IS_SHARED, _IS_64_BIT = 1, 2, 4
_REFERENCE_TO = (0x63, 0x64)  # a number follows: which type

_END = 0x0B
#: How many numbers follow a constant instruction; the ones behind ``_GC`` have a number of their own first.
_OPERANDS = {0x23: 1, 0x41: 1, 0x42: 1, 0x6A: 0, 0x6B: 0, 0x6C: 0, 0x7C: 0, 0x7D: 0, 0x7E: 0, 0xD0: 1, 0xD2: 1}
_GC = 0xFB
_GC_OPERANDS = {0: 1, 1: 1, 6: 1, 7: 1, 8: 2, 26: 0, 27: 0, 28: 0}
_OPERAND_BYTES = {0x43: 4, 0x44: 8}


class Malformed(Exception):
    """These bytes are no module, or use what this host does not know. The text says what and where."""


class Reader:
    """The bytes of ``data`` from ``at`` to ``end``. Nothing reads beyond: everything raises Malformed there."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self.at, self._end = data, at, end

    @property
    def is_at_end(self) -> bool:
        return self.at == self._end

    def skip(self, count: int) -> None:
        if count > self._end - self.at:
            raise Malformed(f"what begins at byte {self.at} ends beyond its place")
        self.at += count

    def take(self, count: int) -> bytes:
        begin = self.at
        self.skip(count)
        return self._data[begin : self.at]

    def next_is(self, expected: bytes) -> bool:
        """And go on behind it, if so."""
        found = self._data.startswith(expected, self.at, self._end)
        if found:
            self.at += len(expected)
        return found

    def taken_since(self, begin: int) -> bytes:
        return self._data[begin : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, bits: int = 32) -> int:
        """Unsigned LEB128, also padded with zeros, as linkers write it, up to the length that ``bits`` may need."""
        value = 0
        for shift in range(0, bits, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value
        raise Malformed(f"the number before byte {self.at} is too long")

    def skip_number(self) -> None:
        """LEB128 of either sign and any length."""
        while self.byte() >= 0x80:
            pass

    def skip_numbers(self, count: int) -> None:
        for _ in range(count):
            self.skip_number()

    def name(self) -> bytes:
        return self.take(self.number())

    def require_end(self) -> None:
        if not self.is_at_end:
            raise Malformed(f"a section goes on at byte {self.at}, where it should end")


class Section(NamedTuple):
    """The bytes of a module from ``start``, where its number stands, to ``end``; ``body`` is where its content is."""

    number: int
    start: int
    body: int
    end: int


def sections(wasm: bytes) -> Iterator[Section]:
    """All but custom sections, in their order; none comes twice."""
    reader = Reader(wasm, 0, len(wasm))
    if reader.take(len(_HEADER)) != _HEADER:
        raise Malformed("it does not begin like one of version 1")
    place = -1
    while not reader.is_at_end:
        start = reader.at
        number = reader.byte()
        size = reader.number()
        body = reader.at
        reader.skip(size)
        if number == _CUSTOM:
            continue
        if _PLACES.get(number, -1) <= place:
            raise Malformed(f"section {number} at byte {start} is unknown or out of place")
        place = _PLACES[number]
        yield Section(number, start, body, reader.at)


def encode_section(number: int, body: bytes) -> bytes:
    return bytes([number]) + encode_number(len(body)) + body


def encode_number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_name(name: bytes) -> bytes:
    return encode_number(len(name)) + name


class Limits(NamedTuple):
    """How large a table (in elements) or a memory (in pages) is, and may become."""

    flags: int
    minimum: int
    maximum: int | None

    @classmethod
    def read(cls, reader: Reader) -> Limits:
        flags = reader.byte()
        if flags & ~(_HAS_MAXIMUM | _IS_SHARED | _IS_64_BIT):
            raise Malformed(f"the limits before byte {reader.at} have a flag that this host does not know ({flags:#x})")
        bits = 64 if flags & _IS_64_BIT else 32
        minimum = reader.number(bits)
        return cls(flags, minimum, reader.number(bits) if flags & _HAS_MAXIMUM else None)

    def clamped(self, maximum: int) -> Limits:
        """With a maximum of ``maximum`` or less."""
        if self.maximum is not None and self.maximum <= maximum:
            return self
        return Limits(self.flags | _HAS_MAXIMUM, self.minimum, maximum)

    def encode(self) -> bytes:
        maximum = b"" if self.maximum is None else encode_number(self.maximum)
        return bytes([self.flags]) + encode_number(self.minimum) + maximum


def skip_reference_type(reader: Reader) -> None:
    if reader.byte() in _REFERENCE_TO:
        reader.skip_number()


def skip_expression(reader: Reader) -> None:
    """A constant expression, with its end."""
    while (instruction := reader.byte()) != _END:
        if instruction in _OPERAND_BYTES:
            reader.skip(_OPERAND_BYTES[instruction])
            continue
        operands = _GC_OPERANDS.get(reader.number()) if instruction == _GC else _OPERANDS.get(instruction)
        if operands is None:
            raise Malformed(
                f"an initial value before byte {reader.at} is computed in a way that this host does not know"
            )
        reader.skip_numbers(operands)
