"""The worker's door to Extism: one module, one instance, calls that end in bytes or in a GuestFailure."""

from __future__ import annotations

import base64
import json
from typing import Any

import extism
from extism.extism import CompiledPlugin
from extism_sys import ffi, lib

from isoplug.shared.limits import WASM_PAGE_BYTES, clip
from isoplug.shared.messages import FailureKind

__all__ = ["Guest", "GuestFailure"]

#: Return codes that mean "stopped", as observed with libextism 1.41: -1 for most traps, 134 (128 + SIGABRT) for a trap
#: in a guest that uses WASI. A guest that returns one of them on purpose is taken for trapped, which costs it a new
#: worker and nobody else anything.
_TRAP_CODES = (-1, 134)


class GuestFailure(Exception):
    """A call that did not return; ``kind`` is one of FailureKind."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Guest:
    """A compiled and instantiated module.

    Extism's own HTTP and file mapping stay off, or a plugin would pass by the supervisor; WASI is on without
    directories, because guests built for ``wasm32-wasip1`` import it (the reference host does the same).
    """

    def __init__(self, wasm: bytes, functions: list[Any], wasm_memory_bytes: int, output_bound: int) -> None:
        # Bytes would be taken for a manifest when they look like one, and a manifest may name files: always wrap.
        manifest = {
            "wasm": [{"data": base64.b64encode(wasm).decode("ascii")}],
            "memory": {"max_pages": wasm_memory_bytes // WASM_PAGE_BYTES},
            "allowed_hosts": [],
            "allowed_paths": {},
        }
        try:
            compiled = CompiledPlugin(json.dumps(manifest).encode("ascii"), wasi=True, functions=functions)
            self._instance = extism.Plugin(compiled)  # owns what the pointer below points to
        except extism.Error as error:
            raise GuestFailure(FailureKind.TRAP, _reason(error)) from error
        self._pointer = self._instance.plugin
        self._wasm_memory_bytes = wasm_memory_bytes
        self._output_bound = output_bound
        self._names: dict[str, bytes] = {}  # of the exports that were asked for and are there

    def call(self, export: str, data: bytes) -> bytes:
        """Call ``export``. Raises GuestFailure; anything but MISSING and GUEST leaves the instance unusable.

        Through Extism's C interface: ``extism.Plugin.call`` hides the return code, the only thing that tells a trap
        from an error the guest reported, and takes a code of 0 for a failure when the guest left an error text behind,
        which Extism's own Rust host does not.
        """
        name = self._names.get(export) or self._find(export)
        code = lib.extism_plugin_call(self._pointer, name, data, len(data))
        if code:
            raise self._failure(code)
        length = lib.extism_plugin_output_length(self._pointer)
        if length > self._output_bound:
            raise GuestFailure(
                FailureKind.LIMIT, f"the output of {length} bytes is over the limit of {self._output_bound}"
            )
        return bytes(ffi.buffer(lib.extism_plugin_output_data(self._pointer), length))

    def _find(self, export: str) -> bytes:
        if not self._instance.function_exists(export):
            raise GuestFailure(FailureKind.MISSING, f"no export {export!r}")
        name = self._names[export] = export.encode()
        return name

    def _failure(self, code: int) -> GuestFailure:
        error = lib.extism_plugin_error(self._pointer)
        text = f"return code {code}" if error == ffi.NULL else clip(ffi.string(error).decode("utf-8", "replace"))
        if code not in _TRAP_CODES:
            return GuestFailure(FailureKind.GUEST, text)
        if text == "oom":
            text = f"out of memory: the guest asked for more than {self._wasm_memory_bytes} bytes"
        # wasmtime's own words for a trap say no more than that; which one it was, Extism does not pass on.
        return GuestFailure(FailureKind.TRAP, text.replace("error while executing at wasm backtrace:", "wasm trap", 1))


def _reason(error: extism.Error) -> str:
    return clip(
        str(error).removeprefix("Unable to create Extism plugin: ").removeprefix("Unable to compile Extism plugin: ")
    )
