"""No memory that can be written and executed, in a process that has imported what workers import."""

from __future__ import annotations

import os
import subprocess
import sys

_TEMPLATE = """
import base64, json, os
import isoplug.worker.zygote
from isoplug.worker.lockdown import writable_code
import extism
from extism.extism import CompiledPlugin

wat = b'''(module (import "extism:host/user" "ask" (func $ask (param i64) (result i64)))
    (func (export "go") (result i32) (i32.wrap_i64 (call $ask (i64.const 40)))))'''

def writable():
    with open("/proc/self/maps") as maps:
        return sum(line.split()[1].startswith("rwx") for line in maps)

@extism.host_fn(name="ask", signature=([extism.ValType.I64], [extism.ValType.I64]))
def ask(plugin, inputs, outputs):
    outputs[0].value = 0
    print("asked with", inputs[0].value, flush=True)

writable_code.seal()
print(writable(), "writable", flush=True)
manifest = {"wasm": [{"data": base64.b64encode(wat).decode()}]}
extism.Plugin(CompiledPlugin(json.dumps(manifest).encode(), functions=[ask])).call("go", b"")
os._exit(0)
"""


def test_what_libraries_had_made_is_sealed_and_their_callbacks_go_on_working() -> None:
    command = [sys.executable, "-c", _TEMPLATE]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "EXTISM_CACHE_CONFIG": ""}
    template = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert template.stdout == "0 writable\nasked with 40\n", template.stderr
    assert template.returncode == 0
