"""WASI programs for the tests: one C file with a ``main``, compiled when first asked for and kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["wasi_program"]

_SOURCE = Path(__file__).with_name("program.c")
_FLAGS = ("-target", "wasm32-wasi", "-Os", "-s", "-Wall", "-Werror", "-fno-sanitize=undefined")


def wasi_program(cache: Path) -> bytes:
    """``program.c``, whose first argument says what it does. The compiler's own cache stands beside it, because it
    builds a C library first, which takes half a minute."""
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()
    module = cache / f"program-{digest[:16]}.wasm"
    if not module.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "program.wasm"
            command = [sys.executable, "-m", "ziglang", "cc", *_FLAGS, str(_SOURCE), "-o", str(made)]
            caches = {"ZIG_GLOBAL_CACHE_DIR": str(cache / "zig"), "ZIG_LOCAL_CACHE_DIR": str(Path(folder) / "zig")}
            subprocess.run(command, env={**os.environ, **caches}, check=True, timeout=300)
            made.replace(module)  # whole or not at all: another process may be building it as well
    return module.read_bytes()
