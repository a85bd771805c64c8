"""What is done to a module's bytes before they are compiled: bounds where Extism has none, and its start taken out.

Extism instantiates a module twice, the first time before its limits apply and before host functions work, and runs the
start section and ``_initialize`` both times: such code has what memory it likes, and a host call from it ends the
process. So both become exports under names that Extism does not know, for the worker to call once, like any other.
Extism counts no tables at all, and of memories not what is there from the beginning.

This is no validator, wasmtime validates what comes out. Only what is rewritten has to be understood, and what is not
understood is refused.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from isoplug.shared.limits import WASM_PAGE_BYTES
from isoplug.worker.wasm_format import (
    FUNCTION,
    Limits,
    Malformed,
    Reader,
    Section,
    SectionId,
    encode_name,
    encode_number,
    encode_section,
    sections,
    skip_expression,
    skip_reference_type,
)

__all__ = ["MEMORIES", "TABLES", "TABLE_ELEMENTS", "ModuleRefused", "Prepared", "prepare"]

#: Tables of a module, and elements of all together, at 8 or 16 bytes each. Compilers make one table, with an element
#: for each function whose address is taken.
TABLES = 16
TABLE_ELEMENTS = 1_000_000
#: Each reserves gigabytes of address space.
MEMORIES = 8

#: What Extism runs before the first call: the first that there is.
_INITIALIZERS = (b"__wasm_call_ctors", b"_initialize")
#: Takes arguments, so only Extism can call it, after ``_initialize``. Where it is, both stay.
_HASKELL = b"hs_init"

_TYPED_WITH_VALUE = b"\x40\0"  # a table whose elements have an initial value


class ModuleRefused(ValueError):
    """No module, or over a bound. The text is for whoever installs it."""


class Prepared(NamedTuple):
    """``starts`` are exports to be called once, in this order, before any other; ``memory_bytes`` is what the memories
    have from the beginning, which Extism adds to its limit."""

    wasm: bytes
    starts: tuple[str, ...]
    memory_bytes: int


class _Edit(NamedTuple):
    """The bytes from ``start`` to ``end`` become others."""

    start: int
    end: int
    replacement: bytes


def prepare(wasm: bytes, wasm_memory_bytes: int) -> Prepared:
    """The module as it may be compiled: the same object when nothing has to change. Raises ModuleRefused."""
    try:
        found = {section.number: section for section in sections(wasm)}
        memory_bytes, edits = _memories(wasm, found.get(SectionId.MEMORY), wasm_memory_bytes)
        edits += _tables(wasm, found.get(SectionId.TABLE))
        starts, more = _starts(wasm, found.get(SectionId.EXPORT), found.get(SectionId.START))
    except Malformed as error:
        raise ModuleRefused(f"it is no valid WebAssembly module: {error}; build or download it again") from error
    return Prepared(_edited(wasm, sorted(edits + more)), starts, memory_bytes)


def _edited(wasm: bytes, edits: list[_Edit]) -> bytes:
    if not edits:
        return wasm
    view = memoryview(wasm)  # a slice of bytes would be a copy
    parts: list[bytes | memoryview] = []
    at = 0
    for edit in edits:
        parts += [view[at : edit.start], edit.replacement]
        at = edit.end
    return b"".join([*parts, view[at:]])


def _require(what: str, figure: int, bound: int, advice: str) -> None:
    if figure > bound:
        raise ModuleRefused(f"the {what} is {figure}, the limit is {bound}; {advice}")


# --- tables and memories ------------------------------------------------------------------------------------------


class _Bounded(NamedTuple):
    """One table or memory: its limits, and the bytes around them."""

    before: bytes
    limits: Limits
    after: bytes

    def encode(self) -> bytes:
        return self.before + self.limits.encode() + self.after


def _tables(wasm: bytes, section: Section | None) -> list[_Edit]:
    if section is None:
        return []
    reader = Reader(wasm, section.body, section.end)
    number = reader.number()
    _require("number of its tables", number, TABLES, "build it with fewer")
    tables = [_table(reader) for _ in range(number)]
    reader.require_end()
    elements = sum(table.limits.minimum for table in tables)
    _require("number of elements in its tables", elements, TABLE_ELEMENTS, "build it with smaller ones")
    return _clamped(section, tables, TABLE_ELEMENTS - elements)


def _table(reader: Reader) -> _Bounded:
    begin = reader.at
    has_value = reader.next_is(_TYPED_WITH_VALUE)
    skip_reference_type(reader)
    before = reader.taken_since(begin)
    limits = Limits.read(reader)
    begin = reader.at
    if has_value:
        skip_expression(reader)
    return _Bounded(before, limits, reader.taken_since(begin))


def _memories(wasm: bytes, section: Section | None, bound_bytes: int) -> tuple[int, list[_Edit]]:
    """How many bytes they have from the beginning. Where that is more than half of the bound, Extism's own limit,
    which comes on top, would be no bound at all."""
    if section is None:
        return 0, []
    reader = Reader(wasm, section.body, section.end)
    number = reader.number()
    _require("number of its memories", number, MEMORIES, "build it with one")
    memories = [_Bounded(b"", Limits.read(reader), b"") for _ in range(number)]
    reader.require_end()
    pages, bound = sum(memory.limits.minimum for memory in memories), bound_bytes // WASM_PAGE_BYTES
    advice = "raise limits.wasm_memory, or build it with a smaller one"
    _require("size of its initial memory in bytes", pages * WASM_PAGE_BYTES, bound_bytes, advice)
    edits = _clamped(section, memories, bound - pages) if pages > bound // 2 else []
    return pages * WASM_PAGE_BYTES, edits


def _clamped(section: Section, bounded: list[_Bounded], spare: int) -> list[_Edit]:
    """Let them grow by ``spare`` together, each by the same part of it."""
    part = spare // max(1, len(bounded))
    result = [one._replace(limits=one.limits.clamped(one.limits.minimum + part)) for one in bounded]
    if result == bounded:
        return []
    body = encode_number(len(result)) + b"".join(one.encode() for one in result)
    return [_Edit(section.start, section.end, encode_section(section.number, body))]


# --- what runs by itself ------------------------------------------------------------------------------------------


class _Export(NamedTuple):
    name: bytes
    kind_and_index: bytes

    @property
    def is_function(self) -> bool:
        return self.kind_and_index[0] == FUNCTION

    def encode(self) -> bytes:
        return encode_name(self.name) + self.kind_and_index


def _starts(wasm: bytes, exports: Section | None, start: Section | None) -> tuple[tuple[str, ...], list[_Edit]]:
    """What is to be called, and the edits for that: initializers renamed, the start section's function exported."""
    listed = _exports(wasm, exports) if exports and (start or _may_initialize(wasm, exports)) else []
    functions = {export.name for export in listed if export.is_function}
    if _HASKELL in functions:
        if start:
            raise ModuleRefused("it has a start section beside the function hs_init; build it without one of them")
        return (), []
    names = {export.name for export in listed}
    free = (name for number in count() if (name := f"isoplug:start{number}".encode()) not in names)
    renamed = {name: next(free) for name in _INITIALIZERS if name in functions}
    called = list(renamed.values())[:1]
    result = [export._replace(name=renamed.get(export.name, export.name)) for export in listed]
    if start:
        called.insert(0, next(free))
        result.append(_Export(called[0], bytes([FUNCTION]) + encode_number(_start_index(wasm, start))))
    if not called:
        return (), []
    body = encode_number(len(result)) + b"".join(export.encode() for export in result)
    section = encode_section(SectionId.EXPORT, body)
    edits = []
    if exports:
        edits.append(_Edit(exports.start, exports.end, section))
    if start:  # just behind the place of the exports
        edits.append(_Edit(start.start, start.end, b"" if exports else section))
    return tuple(name.decode() for name in called), edits


def _may_initialize(wasm: bytes, exports: Section) -> bool:
    """Without reading every name, of which there may be many thousands."""
    return any(wasm.find(name, exports.body, exports.end) >= 0 for name in _INITIALIZERS)


def _exports(wasm: bytes, section: Section) -> list[_Export]:
    reader = Reader(wasm, section.body, section.end)
    exports = [_export(reader) for _ in range(reader.number())]
    reader.require_end()
    return exports


def _export(reader: Reader) -> _Export:
    name = reader.name()
    begin = reader.at
    reader.byte()
    reader.skip_number()
    return _Export(name, reader.taken_since(begin))


def _start_index(wasm: bytes, section: Section) -> int:
    reader = Reader(wasm, section.body, section.end)
    index = reader.number()
    reader.require_end()
    return index
