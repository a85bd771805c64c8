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

#: Return codes of calls that were stopped, as observed with libextism 1.41. Guests return them as well: -1 is what the
#: Rust SDK answers for every error. Only Extism's log tells the two apart: it has ``_REPORTED`` when the guest set an
#: error, and ``_TRAPPED`` when it was stopped, whatever it had set before. (Out of memory has neither.) A guest that
#: writes ``_TRAPPED`` into its error counts as trapped, which costs it its worker and nobody else anything.
_STOPPED_CODES = (-1, 134)
_REPORTED = b" returned with error message: "
_TRAPPED = b"error while executing at wasm backtrace:"

#: What Extism has logged since the last call. Its log is one for the process, and kept in memory until it is drained.
_log: list[bytes] = []


def _take(text: Any, length: int) -> None:
    _log.append(bytes(ffi.buffer(text, length)))


_take_log = ffi.callback("void(char *, uint64_t)", _take)


def _drain() -> bytes:
    lib.extism_log_drain(_take_log)
    said = b"".join(_log)
    _log.clear()
    return said


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
        lib.extism_log_custom(b"extism::plugin=error")
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
        said = _drain()  # also after success, or a guest that sets errors and returns 0 would fill it
        if code:
            raise self._failure(code, said)
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

    def _failure(self, code: int, said: bytes) -> GuestFailure:
        if _TRAPPED in said:
            return GuestFailure(FailureKind.TRAP, _trap(said))
        error = lib.extism_plugin_error(self._pointer)
        text = f"return code {code}" if error == ffi.NULL else clip(ffi.string(error).decode("utf-8", "replace"))
        if code not in _STOPPED_CODES or _REPORTED in said:
            return GuestFailure(FailureKind.GUEST, text)
        if text == "oom":
            text = f"out of memory: the guest asked for more than {self._wasm_memory_bytes} bytes"
        return GuestFailure(FailureKind.TRAP, text)


def _trap(said: bytes) -> str:
    """Which trap it was, then where: ``wasm trap: integer divide by zero`` and the frames below it."""
    _, _, report = said.rpartition(_TRAPPED)
    frames, _, cause = report.partition(b"\n\nCaused by:\n")
    cause, _, _ = cause.rpartition(b" plugin=")
    return clip(f"{cause.strip().decode('utf-8', 'replace')}{frames.decode('utf-8', 'replace')}")


def _reason(error: extism.Error) -> str:
    return clip(
        str(error).removeprefix("Unable to create Extism plugin: ").removeprefix("Unable to compile Extism plugin: ")
    )
