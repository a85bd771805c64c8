"""The worker's door to Extism: one module, one instance, calls that end in bytes or in a GuestFailure."""

from __future__ import annotations

import base64
import json
from typing import Any

import extism
from extism.extism import CompiledPlugin

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


class _Instance(extism.Plugin):  # type: ignore[misc]
    """extism.Plugin that keeps the return code, the only thing that tells a trap from an error the guest reported.

    Code 0 is success whatever the guest left in its error slot, as it is for Extism's own Rust host.
    """

    return_code = 0

    def _check_error(self, return_code: int) -> None:
        self.return_code = return_code
        if return_code:
            super()._check_error(return_code)


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
            self._compiled = CompiledPlugin(json.dumps(manifest).encode("ascii"), wasi=True, functions=functions)
            self._instance = _Instance(self._compiled)
        except extism.Error as error:
            raise GuestFailure(FailureKind.TRAP, _reason(error)) from error
        self._wasm_memory_bytes = wasm_memory_bytes
        self._output_bound = output_bound
        self._exports: set[str] = set()  # those that were asked for and are there

    def call(self, export: str, data: bytes) -> bytes:
        """Call ``export``. Raises GuestFailure; anything but MISSING and GUEST leaves the instance unusable."""
        if export not in self._exports:
            if not self._instance.function_exists(export):
                raise GuestFailure(FailureKind.MISSING, f"no export {export!r}")
            self._exports.add(export)
        try:
            output: bytes = self._instance.call(export, data, parse=self._bounded)
        except extism.Error as error:
            raise self._failure(_reason(error)) from error
        except UnicodeDecodeError as error:  # Extism decodes the guest's error text strictly
            raise self._failure(clip(error.object.decode("utf-8", "replace"))) from error
        except OverflowError as error:  # output_set with bounds that wrap around
            raise GuestFailure(FailureKind.LIMIT, "the guest set an output outside its memory") from error
        return output

    def _bounded(self, buffer: Any) -> bytes:
        if len(buffer) > self._output_bound:
            raise GuestFailure(
                FailureKind.LIMIT, f"the output of {len(buffer)} bytes is over the limit of {self._output_bound}"
            )
        return bytes(buffer)

    def _failure(self, text: str) -> GuestFailure:
        if self._instance.return_code not in _TRAP_CODES:
            return GuestFailure(FailureKind.GUEST, text)
        if text == "oom":
            text = f"out of memory: the guest asked for more than {self._wasm_memory_bytes} bytes"
        return GuestFailure(FailureKind.TRAP, text)


def _reason(error: extism.Error) -> str:
    return clip(
        str(error).removeprefix("Unable to create Extism plugin: ").removeprefix("Unable to compile Extism plugin: ")
    )
