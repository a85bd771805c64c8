"""Code of a module that would run by itself, and what it may not have: real workers, real refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wasmtime

from conftest import PluginFolder
from isoplug.supervisor import LoadError, PluginError, ResourceLimitExceeded, Supervisor
from isoplug.supervisor.config import Config, Limits

GUEST, MIB = "test.own", 1 << 20
MANIFEST = f'{{"id":"{GUEST}","name":"Own","version":"1","description":"","capabilities":[]}}'

#: A plugin whose exports are ``exports``; ``$say`` makes an i64 the output, eight bytes of it.
MODULE = """(module
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "store_u64" (func $store_u64 (param i64 i64)))
  (import "extism:host/env" "store_u8" (func $store_u8 (param i64 i32)))
  (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
  (import "extism:host/user" "host_get_timestamp" (func $host (param i64) (result i64)))
  (memory (export "memory") %(memory)s)
  (table $table 1 externref)
  (data (i32.const 64) "%(manifest)s")
  (func $say (param $what i64) (local $room i64)
    (local.set $room (call $alloc (i64.const 8)))
    (call $store_u64 (local.get $room) (local.get $what))
    (call $output_set (local.get $room) (i64.const 8)))
  (func (export "manifest") (local $at i32) (local $room i64)
    (local.set $room (call $alloc (i64.const %(length)d)))
    (loop $next
      (call $store_u8 (i64.add (local.get $room) (i64.extend_i32_u (local.get $at)))
        (i32.load8_u (i32.add (i32.const 64) (local.get $at))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const %(length)d))))
    (call $output_set (local.get $room) (i64.const %(length)d)))
  (global $trace (mut i64) (i64.const 0))
  (func $did (param i64)
    (global.set $trace (i64.add (i64.mul (global.get $trace) (i64.const 10)) (local.get 0))))
  (func (export "trace") (call $say (global.get $trace)))
  %(exports)s)"""


def module(exports: str = "", memory: str = "1") -> bytes:
    text = MODULE % {
        "manifest": MANIFEST.replace('"', '\\"'),
        "length": len(MANIFEST),
        "exports": exports,
        "memory": memory,
    }
    return bytes(wasmtime.wat2wasm(text))


@pytest.fixture
def load(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    def start(exports: str = "", memory: str = "1") -> Supervisor:
        plugins.add_bytes("own", module(exports, memory))
        plugins.add("test.bystander")
        supervisor = supervise(config=Config(limits=Limits(wasm_memory=32 * MIB, process_memory=160 * MIB)))
        assert supervisor.call("test.bystander", "echo", b"here") == b"here"
        return supervisor

    return start


def number(supervisor: Supervisor, export: str) -> int:
    return int.from_bytes(supervisor.call(GUEST, export), "little", signed=True)


def error(supervisor: Supervisor) -> PluginError:
    return supervisor.load_errors["own"]


def test_start_code_runs_once_and_before_any_call(load: Callable[..., Supervisor]) -> None:
    supervisor = load(
        '(func $start (call $did (i64.const 1))) (start $start) (func (export "_initialize") (call $did (i64.const 2)))'
    )
    assert number(supervisor, "trace") == 12
    assert number(supervisor, "trace") == 12


def test_start_code_runs_again_in_an_instance_that_a_call_of_start_has_used_up(load: Callable[..., Supervisor]) -> None:
    supervisor = load(
        '(func (export "_initialize") (call $did (i64.const 2))) (func (export "_start") (call $did (i64.const 3)))'
    )
    assert number(supervisor, "trace") == 2
    supervisor.call(GUEST, "_start")
    assert number(supervisor, "trace") == 2


@pytest.mark.parametrize("name", ["_initialize", "__wasm_call_ctors"])
@pytest.mark.parametrize("in_section", [True, False])
def test_memory_that_start_code_asks_for_is_counted(
    name: str, in_section: bool, load: Callable[..., Supervisor]
) -> None:
    """In an instance of Extism's own making it would get four times the limit."""
    grow = "(if (i32.ne (i32.const -1) (memory.grow (i32.const 2048))) (then (call $did (i64.const 9))))"
    supervisor = load(f"(func $f {grow}) (start $f)" if in_section else f'(func (export "{name}") {grow})')
    assert "limits.wasm_memory" in str(error(supervisor))


@pytest.mark.parametrize(
    "how", ["(start $f)", '(export "_initialize" (func $f))', '(export "__wasm_call_ctors" (func $f))']
)
def test_start_code_that_calls_the_host_is_refused_and_kills_nothing(how: str, load: Callable[..., Supervisor]) -> None:
    supervisor = load(f"(func $f (drop (call $host (i64.const 0)))) {how}")
    assert type(error(supervisor)) is LoadError
    assert "host_get_timestamp while it starts" in str(error(supervisor))


def test_an_initializer_with_parameters_is_refused(load: Callable[..., Supervisor]) -> None:
    assert type(error(load('(func (export "_initialize") (param i32))'))) is LoadError


def test_a_table_grows_to_its_bound_and_the_process_stays_small(load: Callable[..., Supervisor]) -> None:
    supervisor = load(
        """(func (export "grow") (local $granted i64)
          (loop $again
            (if (i32.ne (i32.const -1) (table.grow $table (ref.null extern) (i32.const 10000)))
              (then (local.set $granted (i64.add (local.get $granted) (i64.const 10000))) (br $again))))
          (call $say (local.get $granted)))"""
    )
    assert number(supervisor, "grow") == 990_000
    assert number(supervisor, "grow") == 0


def test_a_memory_over_the_limit_from_the_beginning_is_refused_by_name(load: Callable[..., Supervisor]) -> None:
    assert "limits.wasm_memory" in str(error(load(memory="513")))


@pytest.mark.parametrize("least", [1, 200, 300, 510])
def test_a_memory_grows_to_the_limit_wherever_it_began(least: int, load: Callable[..., Supervisor]) -> None:
    supervisor = load(
        '(func (export "fill") (drop (memory.grow (i32.sub (i32.const 511) (memory.size)))))'
        '(func (export "grow") (drop (memory.grow (i32.const 2))))'
        '(func (export "size") (call $say (i64.extend_i32_u (memory.size))))',
        str(least),
    )
    supervisor.call(GUEST, "fill")
    assert number(supervisor, "size") == 511
    with pytest.raises(ResourceLimitExceeded, match=r"limits\.wasm_memory"):
        supervisor.call(GUEST, "grow")
