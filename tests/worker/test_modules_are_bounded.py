"""What is done to a module before it is compiled. The results are run by wasmtime."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.worker.module import MEMORIES, TABLE_ELEMENTS, TABLES, ModuleRefused, Prepared, prepare

MIB = 1 << 20
PAGE = 65_536


def assemble(wat: str) -> bytes:
    return bytes(wasmtime.wat2wasm(wat))


def prepared(wat: str, bound: int = 64 * MIB) -> Prepared:
    return prepare(assemble(wat), bound)


class Running:
    """An instance of a prepared module, started as a worker starts it."""

    def __init__(self, made: Prepared, imports: list[Any] | None = None) -> None:
        config = wasmtime.Config()
        for feature in ("reference_types", "multi_memory", "memory64", "tail_call", "function_references", "gc"):
            setattr(config, f"wasm_{feature}", True)
        self.store = wasmtime.Store(wasmtime.Engine(config))
        module = wasmtime.Module(self.store.engine, made.wasm)
        self.exports = wasmtime.Instance(self.store, module, imports or []).exports(self.store)
        for name in made.starts:
            self.call(name)

    def call(self, name: str, *arguments: int) -> Any:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        return function(self.store, *arguments)

    @property
    def names(self) -> list[str]:
        return list(self.exports)


def refusal(wat: str | bytes, bound: int = 64 * MIB) -> str:
    with pytest.raises(ModuleRefused) as caught:
        prepare(assemble(wat) if isinstance(wat, str) else wat, bound)
    return str(caught.value)


# --- what is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wat",
    [
        "(module)",
        '(module (memory 1) (func (export "f")))',
        "(module (table 3 3 funcref))",
        f"(module (table 0 {TABLE_ELEMENTS} funcref))",
        '(module (func (export "not_initialize")))',
        '(module (memory (export "_initialize") 1))',
        '(module (func (export "_initialize")) (func (export "hs_init") (param i32 i32)))',
        '(module (import "m" "f" (func (param i64) (result i64))) (global i32 (i32.const 1)) (tag) (func))',
    ],
)
def test_a_module_within_every_bound_is_the_same_object(wat: str) -> None:
    wasm = assemble(wat)
    made = prepare(wasm, 64 * MIB)
    assert made.wasm is wasm
    assert made.starts == ()


# --- tables -----------------------------------------------------------------------------------------------------------

GROW = """
  (func (export "grow") (param i32) (result i32) (table.grow $t (ref.null extern) (local.get 0)))
  (func (export "size") (result i32) (table.size $t))"""


@pytest.mark.parametrize("table", ["1 externref", f"1 {TABLE_ELEMENTS + 1} externref", "1 4294967295 externref"])
def test_a_table_grows_to_the_bound_and_not_beyond(table: str) -> None:
    running = Running(prepared(f"(module (table $t {table}) {GROW})"))
    assert running.call("grow", TABLE_ELEMENTS) == -1
    assert running.call("grow", TABLE_ELEMENTS - 1) == 1
    assert running.call("grow", 1) == -1
    assert running.call("size") == TABLE_ELEMENTS


def test_a_table_with_a_smaller_maximum_keeps_it() -> None:
    running = Running(prepared(f"(module (table $t 1 5 externref) (table 1 funcref) {GROW})"))
    assert running.call("grow", 5) == -1
    assert running.call("grow", 4) == 1


def test_several_tables_share_the_bound() -> None:
    running = Running(prepared(f"(module (table $t 100 externref) (table 0 externref) (table 0 funcref) {GROW})"))
    share = (TABLE_ELEMENTS - 100) // 3
    assert running.call("grow", share + 1) == -1
    assert running.call("grow", share) == 100


@pytest.mark.parametrize(
    ("table", "grow"),
    [
        ("(table $t 2 (ref null func))", "(table.grow $t (ref.null func) (local.get 0))"),
        ("(table $t 2 anyref)", "(table.grow $t (ref.null any) (local.get 0))"),
        ("(table $t 2 (ref null $type))", "(table.grow $t (ref.null $type) (local.get 0))"),
        ("(table $t 2 (ref i31) (ref.i31 (i32.const 7)))", "(table.grow $t (ref.i31 (i32.const 1)) (local.get 0))"),
        ("(table $t 2 (ref $type) (ref.func $f))", "(table.grow $t (ref.func $f) (local.get 0))"),
        ("(table $t 2 funcref (ref.func $f))", "(table.grow $t (ref.null func) (local.get 0))"),
        (
            "(table $t 2 (ref $struct) (struct.new $struct (i32.add (i32.const 11) (i32.const 1)) (f64.const 11)))",
            "(table.grow $t (table.get $t (i32.const 0)) (local.get 0))",
        ),
        (
            "(table $t 2 (ref $array) (array.new_fixed $array 2 (i64.const 11) (i64.const -11)))",
            "(table.grow $t (table.get $t (i32.const 0)) (local.get 0))",
        ),
        (
            "(table $t i64 2 externref)",
            "(i32.wrap_i64 (table.grow $t (ref.null extern) (i64.extend_i32_u (local.get 0))))",
        ),
    ],
)
def test_every_form_of_table_is_bounded(table: str, grow: str) -> None:
    running = Running(
        prepared(
            "(module (type $type (func)) (type $struct (struct (field i32) (field f64))) (type $array (array i64))"
            f'(func $f (export "f")) {table} (table 3 3 funcref)'
            f'(func (export "grow") (param i32) (result i32) {grow}))'
        )
    )
    share = (TABLE_ELEMENTS - 5) // 2
    assert running.call("grow", share + 1) == -1
    assert running.call("grow", share) == 2


def test_a_64_bit_table_may_have_a_maximum_beyond_32_bits() -> None:
    grow = '(func (export "grow") (result i64) (table.grow $t (ref.null extern) (i64.const 1_000_000)))'
    assert Running(prepared(f"(module (table $t i64 1 0xffff_ffff_ffff externref) {grow})")).call("grow") == -1
    assert str(TABLE_ELEMENTS) in refusal("(module (table i64 0xffff_ffff_ffff externref))")


def test_too_many_tables_and_too_many_elements_are_refused_with_limit_and_figure() -> None:
    assert prepared("(module " + "(table 1 funcref)" * TABLES + ")")
    assert f"tables is {TABLES + 1}, the limit is {TABLES}" in refusal(
        "(module " + "(table 1 funcref)" * (TABLES + 1) + ")"
    )
    assert f"is {TABLE_ELEMENTS + 1}, the limit is {TABLE_ELEMENTS}" in refusal(
        f"(module (table {TABLE_ELEMENTS} funcref) (table 1 funcref))"
    )


# --- memories ---------------------------------------------------------------------------------------------------------


def test_a_memory_that_begins_over_the_limit_is_refused_and_names_it() -> None:
    pages = 64 * MIB // PAGE
    assert prepared(f"(module (memory {pages}))").memory_bytes == 64 * MIB
    text = refusal(f"(module (memory {pages}) (memory 1))")
    assert f"is {64 * MIB + PAGE}, the limit is {64 * MIB}" in text
    assert "limits.wasm_memory" in text
    assert "limits.wasm_memory" in refusal("(module (memory i64 0xffff_ffff_ffff))")


@pytest.mark.parametrize(
    "memory", ["(memory 600)", "(memory 600 65536)", "(memory i64 600)", "(memory 300) (memory 300)"]
)
def test_a_memory_that_begins_with_more_than_half_of_the_limit_cannot_grow_beyond_it(memory: str) -> None:
    index = "i64" if "i64" in memory else "i32"
    made = prepared(
        f'(module {memory} (func (export "grow") (param {index}) (result {index}) (memory.grow (local.get 0))))'
    )
    running = Running(made)
    assert made.memory_bytes == 600 * PAGE
    assert running.call("grow", 1025 - 600) == -1
    assert running.call("grow", (1024 - 600) // memory.count("(memory")) > 0
    assert running.call("grow", 1) == -1


def test_too_many_memories_are_refused() -> None:
    assert f"memories is {MEMORIES + 1}, the limit is {MEMORIES}" in refusal(
        "(module " + "(memory 0)" * (MEMORIES + 1) + ")"
    )


# --- what runs by itself ----------------------------------------------------------------------------------------------

#: Appends a digit to a global, so that its value tells which functions have run, and in which order.
TRACE = """
  (global $trace (mut i32) (i32.const 0))
  (func $did (param i32)
    (global.set $trace (i32.add (i32.mul (global.get $trace) (i32.const 10)) (local.get 0))))
  (func (export "trace") (result i32) (global.get $trace))"""
START = "(func $start (call $did (i32.const 1))) (start $start)"
INITIALIZE = '(func (export "_initialize") (call $did (i32.const 2)))'
CONSTRUCTORS = '(func (export "__wasm_call_ctors") (call $did (i32.const 3)))'


@pytest.mark.parametrize(
    ("functions", "trace"),
    [
        (START, 1),
        (INITIALIZE, 2),
        (CONSTRUCTORS, 3),
        (START + INITIALIZE, 12),
        (INITIALIZE + CONSTRUCTORS, 3),  # as in Extism: the first that there is
        (CONSTRUCTORS + INITIALIZE + START, 13),
    ],
)
def test_what_would_run_by_itself_runs_once_when_it_is_called(functions: str, trace: int) -> None:
    made = prepared(f"(module {TRACE} {functions})")
    assert Running(made._replace(starts=())).call("trace") == 0
    running = Running(made)
    assert running.call("trace") == trace
    assert not {"_initialize", "__wasm_call_ctors"} & set(running.names)


def test_a_start_function_that_nothing_exports_is_exported_also_where_there_was_no_export() -> None:
    made = prepared('(module (memory 1) (func $f) (start $f) (elem declare func $f) (data (i32.const 0) "x"))')
    assert Running(made).names == list(made.starts)


def test_names_that_the_module_exports_are_not_taken() -> None:
    made = prepared(
        f'(module {TRACE} {START} {INITIALIZE} (func (export "isoplug:start0")) (func (export "isoplug:start2")))'
    )
    running = Running(made)
    assert running.call("trace") == 12
    assert len(set(running.names)) == len(running.names) == 5
    assert not {"isoplug:start0", "isoplug:start2"} & set(made.starts)


def test_a_start_function_may_be_an_import() -> None:
    made = prepared('(module (import "m" "f" (func $f)) (start $f))')
    seen: list[int] = []
    store = wasmtime.Store()
    function = wasmtime.Func(store, wasmtime.FuncType([], []), lambda: seen.append(1))
    module = wasmtime.Module(store.engine, made.wasm)
    exports = wasmtime.Instance(store, module, [function]).exports(store)
    assert seen == []
    exports[made.starts[0]](store)  # type: ignore[operator]
    assert seen == [1]


def test_a_start_section_beside_what_only_extism_can_call_is_refused() -> None:
    assert "hs_init" in refusal('(module (func $f) (start $f) (func (export "hs_init") (param i32 i32)))')


# --- bytes that are no module -----------------------------------------------------------------------------------------

HEADER = b"\0asm\x01\0\0\0"


@pytest.mark.parametrize(
    "wasm",
    [
        b"",
        b"\0asm",
        b"(module)",
        b"\0asm\x0d\0\x01\0",
        HEADER + b"\x04",
        HEADER + b"\x04\x05\x01",
        HEADER + b"\x04\xff\xff\xff\xff\xff\x01\x00",
        HEADER + b"\x04\x80\x80\x80\x80\x10",
        HEADER + b"\x04\x00",
        HEADER + b"\x04\x05\x01\x70\x00\x01\x00",
        HEADER + b"\x04\x04\x01\x70\x10\x01",
        HEADER + b"\x04\x04\x02\x70\x00\x01",
        HEADER + b"\x04\x03\xff\xff\x7f",
        HEADER + b"\x04\x06\x01\x40\x00\x70\x00\x01",
        HEADER + b"\x04\x09\x01\x40\x00\x70\x00\x01\xfd\x0c\x0b",
        HEADER + b"\x04\x08\x01\x63\xff\xff\xff\xff\xff\xff",
        HEADER + b"\x08\x02\x00\x00",
        HEADER + b"\x08\x01\x00" * 2,
        HEADER + b"\x08\x01\x00\x07\x01\x00",
        HEADER + b"\x0e\x00",
        HEADER + b"\x05\x03\x01\x08\x00",
        HEADER + b"\x07\x0f\x01\x0b_initialize\x00" + b"\xff" * 2,
    ],
    ids=lambda wasm: wasm[8:].hex() or repr(wasm),
)
def test_bytes_that_cannot_be_read_are_refused(wasm: bytes) -> None:
    assert refusal(wasm)


RICH = assemble(
    f"""(module (type $type (func)) (import "m" "f" (func (param i64) (result i64)))
      (table (export "table") 2 funcref)
      (table 2 (ref null $type)) (table 1 (ref i31) (ref.i31 (i32.const 7))) (table i64 1 9 externref)
      (memory (export "memory") 600) (memory i64 1 3)
      {TRACE} {START} {INITIALIZE} {CONSTRUCTORS}
      (@custom "name" "whatever") (elem (i32.const 0) $start) (data (i32.const 8) "data"))"""
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(RICH)))
def test_whatever_the_bytes_are_they_are_bounded_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    wasm = bytearray(RICH)
    for place, value in changes:
        wasm[place] = value
    for candidate in (bytes(wasm), bytes(wasm[:length])):
        try:
            made = prepare(candidate, 64 * MIB)
        except ModuleRefused:
            continue
        config = wasmtime.Config()
        config.wasm_gc = config.wasm_multi_memory = config.wasm_memory64 = True
        try:
            module = wasmtime.Module(wasmtime.Engine(config), made.wasm)
        except wasmtime.WasmtimeError:
            continue
        assert made.memory_bytes <= 64 * MIB
        for export in module.exports:  # what wasmtime sees in the end is what counts
            if isinstance(export.type, wasmtime.TableType):
                assert (export.type.limits.max or 1 << 64) <= TABLE_ELEMENTS
        again = prepare(made.wasm, 64 * MIB)
        assert again.wasm is made.wasm
        assert again.starts == ()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(50, 1 << 32)), max_size=4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 700),
)
def test_a_module_that_was_rewritten_behaves_as_before(
    tables: list[tuple[int, int | None]], starts: bool, initializes: bool, pages: int
) -> None:
    declared = "".join(
        f"(table $t{number} {least} {'' if most is None else min(most, (1 << 32) - 1)} funcref)"
        f'(func (export "size{number}") (result i32) (table.size $t{number}))'
        f'(func (export "grow{number}") (result i32) (table.grow $t{number} (ref.null func) (i32.const 1)))'
        for number, (least, most) in enumerate(tables)
    )
    wat = f"""(module {declared} (memory {pages}) {TRACE} {START if starts else ""} {INITIALIZE if initializes else ""}
        (func (export "pages") (result i32) (memory.size))
        (func (export "read") (param i32) (result i32) (i32.load8_u (local.get 0)))
        {'(data (i32.const 3) "data")' if pages else ""})"""
    original, made = assemble(wat), prepared(wat)
    before, after = Running(Prepared(original, ("_initialize",) if initializes else (), 0)), Running(made)
    names = [name for name in before.names if name not in ("_initialize", "read")]
    for name in names:
        assert before.call(name) == after.call(name), name
    if pages:
        assert before.call("read", 4) == after.call("read", 4) == ord("a")
    assert made.memory_bytes == pages * PAGE


def test_a_large_module_is_read_in_no_time() -> None:
    filler = random.Random(0).randbytes(5 * MIB)
    size = bytearray()
    value = len(filler) + 2
    while value >= 0x80:
        size.append(value & 0x7F | 0x80)
        value >>= 7
    size.append(value)
    wasm = assemble(f"(module (table 1 funcref) {TRACE} {START})") + b"\0" + bytes(size) + b"\x01x" + filler
    began = time.thread_time()
    made = prepare(wasm, 64 * MIB)
    assert time.thread_time() - began < 0.5
    assert made.starts
    assert made.wasm.endswith(filler)
