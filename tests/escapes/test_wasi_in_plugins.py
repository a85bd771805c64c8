"""A guest may call all that WASI has: a locked worker answers as one that is not locked, and does not die of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wasmtime

from conftest import PluginFolder
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config

TOURIST = "test.tourist"
MANIFEST = f'{{"id":"{TOURIST}","name":"Tourist","version":"1","description":"","capabilities":[]}}'

#: Of memory: a vector of one buffer, a subscription to a millisecond, one to standard input, and room for answers.
VECTOR, SLEEP, ROOM, MANIFEST_AT = 16, 64, 4096, 8192
I64 = {"length", "offset", "precision", "rights", "size", "time"}

#: By name: what is handed over, "name=value" for what has 64 bits.
CALLS: dict[str, tuple[str, ...]] = {
    "args_sizes_get": (f"{ROOM}", f"{ROOM + 4}"),
    "args_get": (f"{ROOM}", f"{ROOM + 64}"),
    "environ_sizes_get": (f"{ROOM}", f"{ROOM + 4}"),
    "environ_get": (f"{ROOM}", f"{ROOM + 64}"),
    "clock_res_get": ("0", f"{ROOM}"),
    "clock_time_get": ("1", "precision=1", f"{ROOM}"),
    "random_get": (f"{ROOM}", "64"),
    "sched_yield": (),
    "fd_prestat_get": ("3", f"{ROOM}"),
    "fd_prestat_dir_name": ("3", f"{ROOM}", "64"),
    "fd_fdstat_get": ("1", f"{ROOM}"),
    "fd_fdstat_set_flags": ("1", "0"),
    "fd_filestat_get": ("1", f"{ROOM}"),
    "fd_filestat_set_size": ("1", "size=0"),
    "fd_filestat_set_times": ("1", "time=0", "time=0", "0"),
    "fd_read": ("0", f"{VECTOR}", "1", f"{ROOM}"),
    "fd_pread": ("0", f"{VECTOR}", "1", "offset=0", f"{ROOM}"),
    "fd_write": ("1", f"{VECTOR}", "1", f"{ROOM}"),
    "fd_pwrite": ("2", f"{VECTOR}", "1", "offset=0", f"{ROOM}"),
    "fd_seek": ("1", "offset=0", "0", f"{ROOM}"),
    "fd_tell": ("1", f"{ROOM}"),
    "fd_sync": ("1",),
    "fd_datasync": ("1",),
    "fd_advise": ("1", "offset=0", "length=1", "0"),
    "fd_allocate": ("1", "offset=0", "length=1"),
    "fd_readdir": ("3", f"{ROOM}", "64", "offset=0", f"{ROOM + 64}"),
    "path_open": ("3", "0", f"{VECTOR}", "4", "0", "rights=0", "rights=0", "0", f"{ROOM}"),
    "path_create_directory": ("3", f"{VECTOR}", "4"),
    "path_filestat_get": ("3", "0", f"{VECTOR}", "4", f"{ROOM}"),
    "path_unlink_file": ("3", f"{VECTOR}", "4"),
    "poll_oneoff": (f"{SLEEP}", f"{ROOM}", "1", f"{ROOM + 64}"),
    "fd_renumber": ("1", "2"),
    "fd_close": ("0",),
}
#: The two subscriptions together.
POLL_BOTH = ("poll_oneoff", (f"{SLEEP}", f"{ROOM}", "2", f"{ROOM + 128}"))


def test_a_locked_worker_answers_all_of_wasi_as_one_that_is_not(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add_bytes(TOURIST, bytes(wasmtime.wat2wasm(tour(CALLS | {"poll_both": ()}))))
    answers = {}
    for lockdown in (Lockdown.OFF, Lockdown.BEST_EFFORT):
        supervisor = supervise(config=Config(lockdown=lockdown))
        (pid,) = supervisor.plugins[TOURIST].status.worker_pids
        answers[lockdown] = [supervisor.call(TOURIST, name, b"") for name in (*CALLS, "poll_both", *CALLS)]
        assert supervisor.plugins[TOURIST].status.worker_pids == (pid,)
        supervisor.close()
    assert answers[Lockdown.OFF] == answers[Lockdown.BEST_EFFORT]
    assert b"\0" in answers[Lockdown.OFF]


@pytest.mark.parametrize("first", ["poll_oneoff", "poll_both", "fd_read", "fd_write"])
def test_what_starts_threads_may_come_first(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], first: str
) -> None:
    plugins.add_bytes(TOURIST, bytes(wasmtime.wat2wasm(tour(CALLS | {"poll_both": ()}))))
    supervisor = supervise()
    assert len({supervisor.call(TOURIST, first, b"") for _ in range(3)}) == 1


def tour(calls: dict[str, tuple[str, ...]]) -> str:
    """A plugin with an export for each call, which answers the errno as one byte."""
    wasi = [(name, tuple(map(kind, arguments))) for name, arguments in CALLS.items()]
    imports = "".join(
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {" ".join(kinds)}) (result i32)))\n'
        for name, kinds in wasi
    )
    exports = "".join(
        f"""(func (export "{name}") (result i32) (local $room i64)
          (local.set $room (call $alloc (i64.const 1)))
          (call $store (local.get $room) ({called(name)}))
          (call $output (local.get $room) (i64.const 1)) i32.const 0)\n"""
        for name in calls
    )
    return f"""(module
      {imports}
      (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
      (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
      (import "extism:host/env" "output_set" (func $output (param i64 i64)))
      (memory (export "memory") 1)
      (data (i32.const {VECTOR}) "{escaped((24).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"name")}")
      (data (i32.const {SLEEP}) "{escaped(subscription())}")
      (data (i32.const {MANIFEST_AT}) "{escaped(MANIFEST.encode())}")
      (func (export "manifest") (result i32) (local $at i32) (local $room i64)
        (local.set $room (call $alloc (i64.const {len(MANIFEST)})))
        (loop $next
          (call $store (i64.add (local.get $room) (i64.extend_i32_u (local.get $at)))
                       (i32.load8_u (i32.add (i32.const {MANIFEST_AT}) (local.get $at))))
          (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const {len(MANIFEST)}))))
        (call $output (local.get $room) (i64.const {len(MANIFEST)}))
        i32.const 0)
      {exports})"""


def kind(argument: str) -> str:
    return "i64" if argument.partition("=")[0] in I64 else "i32"


def called(export: str) -> str:
    name, arguments = POLL_BOTH if export == "poll_both" else (export, CALLS[export])
    constants = " ".join(f"({kind(each)}.const {each.rpartition('=')[2]})" for each in arguments)
    return f"call ${name} {constants}"


def subscription() -> bytes:
    """Two ``struct subscription`` of WASI: a clock in a millisecond, and standard input."""
    clock = bytes(8) + b"\0".ljust(8, b"\0") + (1).to_bytes(8, "little") + (1_000_000).to_bytes(8, "little") + bytes(16)
    return clock + bytes(8) + b"\1".ljust(8, b"\0") + bytes(32)


def escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)
