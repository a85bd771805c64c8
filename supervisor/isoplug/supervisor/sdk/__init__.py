"""What authors of guests get: ``isoplug.h``, a C library in one header, and ``build`` to compile with it.

A guest is one C file. ``build`` needs no system toolchain, only the ``ziglang`` wheel, which brings clang and
wasm-ld; it is looked for when ``build`` is called, so a host that only runs plugins can do without. By hand,
with the folder of this file for SDK::

    python -m ziglang cc -target wasm32-freestanding -nostdlib -Os -s -Wl,--no-entry -I SDK a.c -o plugin.wasm
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from isoplug.shared.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HEADER", "build"]

HEADER = Path(__file__).with_name("isoplug.h")

_FLAGS = (
    "-target",
    "wasm32-freestanding",
    "-nostdlib",
    "-std=gnu11",
    "-Os",
    "-Wall",
    "-Werror",  # nobody sees the warnings of a build that succeeds
    "-fno-sanitize=undefined",  # zig adds the checks of debug builds; their handlers would need a runtime
    "-g0",
    "-s",  # no names and no debug information: they hold paths, which differ from machine to machine
    "-Wl,--no-entry",  # a guest is a library: nothing runs until the host calls an export
    # Every worker would pay the default of 1 MiB. zig puts the stack below the data, so that overflow traps.
    "-Wl,-z,stack-size=65536",
)

# A guest compiles in a tenth of a second; five minutes are a compiler that hangs.
_TIMEOUT_SECONDS = 300.0


def build(source: str | Path, output: str | Path, *, defines: Sequence[str] = ()) -> None:
    """Compile one C file against ``isoplug.h`` into the WASM module ``output``.

    The same source and the same release of ziglang give the same bytes on every machine. ``output`` appears
    whole or not at all; its folder is made when missing. The compiler's caches live in a temporary folder.

    Args:
        source: the C file; files beside it can be included by name.
        output: where the module goes.
        defines: macros as the compiler takes them, such as ``GUEST_PROTOCOL=2`` or ``GUEST_ID="a.b"``.

    Raises:
        SetupError: the ziglang wheel is missing, or the compiler refused the source; with what it said.
    """
    source, output = Path(source).resolve(), Path(output)
    if not source.is_file():
        raise SetupError(f"cannot compile {source}: there is no such file")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="isoplug-sdk-") as scratch:
        module = Path(scratch) / "plugin.wasm"
        _compile(source, module, [f"-D{define}" for define in defines])
        _move(module, output)


def _compile(source: Path, module: Path, defines: list[str]) -> None:
    scratch = module.parent
    command = [sys.executable, "-m", "ziglang", "cc", *_FLAGS, *defines]
    command += ["-I", str(HEADER.parent), str(source), "-o", str(module)]
    environment = {
        **os.environ,
        "ZIG_LOCAL_CACHE_DIR": str(scratch / "local"),
        "ZIG_GLOBAL_CACHE_DIR": str(scratch / "global"),
    }
    try:
        done = subprocess.run(
            command, cwd=scratch, env=environment, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise SetupError(f"cannot compile {source}: no result after {_TIMEOUT_SECONDS:g} s") from cause
    if done.returncode == 0 and module.is_file():
        return
    messages = done.stderr.decode(errors="replace").strip()
    if "No module named ziglang" in messages:
        raise SetupError(f"cannot compile {source}: the compiler is not installed; run: pip install ziglang")
    raise SetupError(
        f"cannot compile {source}; correct the source, or try a current compiler (pip install --upgrade "
        f"ziglang). It said:\n{messages}"
    )


def _move(module: Path, output: Path) -> None:
    """Copy under a name of our own, then rename: another process may be building the same file."""
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as beside:
        pass
    shutil.copyfile(module, beside.name)
    Path(beside.name).chmod(0o644)
    Path(beside.name).replace(output)
