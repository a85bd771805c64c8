"""What the process of a WASI program has imported before it knows what to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

REPORT = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import isoplug.worker.wasi
print(json.dumps(sorted(sys.modules)))
"""


def test_it_has_its_own_module_the_lock_down_and_what_is_shared_and_neither_zmq_nor_extism() -> None:
    path = json.dumps([entry for entry in sys.path if os.path.isabs(entry)])
    command = [sys.executable, "-I", "-c", REPORT, path]
    done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=True)
    modules = set(json.loads(done.stdout))
    ours = {name.removeprefix("isoplug.") for name in modules if name.startswith("isoplug.")}
    assert {name for name in ours if not name.startswith(("shared", "worker.lockdown"))} == {"worker", "worker.wasi"}
    assert modules.isdisjoint({"zmq", "extism", "pydantic", "wasmtime", "socket", "subprocess"})
