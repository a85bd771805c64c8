"""A guest of a few instructions ends any process that hosts it, without a single host function: that is why isoplug
gives it a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import wasmtime

from conftest import PluginFolder
from isoplug.supervisor import Supervisor, WorkerCrashed

PROBE, CRASHER = "test.probe", "test.crasher"
MANIFEST = f'{{"id":"{CRASHER}","name":"x","version":"1","description":"x","capabilities":[]}}'
QUOTED = MANIFEST.replace('"', '\\"')

#: The length and the block's header wrap around, so the allocator grants what is not there; the host reads it.
WAT = f"""(module
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "error_set" (func $error_set (param i64)))
  (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
  (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
  (memory 1)
  (data (i32.const 0) "{QUOTED}")
  (func (export "manifest") (result i32) (local $i i32) (local $at i64)
    (local.set $at (call $alloc (i64.const {len(MANIFEST)})))
    (loop $next
      (call $store (i64.add (local.get $at) (i64.extend_i32_u (local.get $i))) (i32.load8_u (local.get $i)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const {len(MANIFEST)}))))
    (call $output_set (local.get $at) (i64.const {len(MANIFEST)}))
    (i32.const 0))
  (func (export "crash") (result i32)
    (call $error_set (call $alloc (i64.const -16)))
    (i32.const 1)))"""

#: What every host does that has no process for its guests.
IN_PROCESS_HOST = """
import sys, extism
plugin = extism.Plugin({"wasm": [{"path": sys.argv[1]}]})
assert plugin.call("manifest", b"")
print("manifest read", flush=True)
try:
    plugin.call("crash", b"")
except extism.Error:
    pass
print("alive")
"""


@pytest.fixture
def crasher(plugins: PluginFolder) -> str:
    return str(plugins.add_bytes("crasher", bytes(wasmtime.wat2wasm(WAT))))


def test_an_in_process_host_dies_of_it(crasher: str) -> None:
    host = subprocess.run(
        [sys.executable, "-c", IN_PROCESS_HOST, crasher],
        env={"EXTISM_CACHE_CONFIG": ""},
        capture_output=True,
        timeout=60,
    )
    assert host.stdout == b"manifest read\n", host.stderr
    assert host.returncode == -signal.SIGSEGV


def test_here_its_caller_gets_an_error_and_nobody_else_notices(
    plugins: PluginFolder, crasher: str, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    supervisor = supervise()
    assert not supervisor.load_errors
    for _ in range(2):
        with pytest.raises(WorkerCrashed) as caught:
            supervisor.call(CRASHER, "crash")
        assert caught.value.signal == signal.SIGSEGV
        assert supervisor.call(PROBE, "echo", b"still here") == b"still here"
