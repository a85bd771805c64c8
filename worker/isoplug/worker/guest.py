"""The worker's door to Extism: a compiled module, an instance, calls that end in bytes or in a GuestFailure."""

from __future__ import annotations

import base64
import json
from typing import Any

import extism
from extism.extism import CompiledPlugin
from extism_sys import ffi, lib

from isoplug.shared.limits import WASM_PAGE_BYTES, WorkerLimits, clip
from isoplug.shared.messages import FailureKind
from isoplug.worker.module import ModuleRefused, prepare

__all__ = ["Blueprint", "Guest", "GuestFailure", "runtime_version"]

#: Return codes of calls that were stopped, as observed with libextism 1.41. Guests return them as well: -1 is what the
#: Rust SDK answers for every error. Only Extism's log tells the two apart: it has ``_REPORTED`` when the guest set an
#: error, and ``_TRAPPED`` when it was stopped, whatever it had set before. (Out of memory has neither.) A guest that
#: writes ``_TRAPPED`` into its error counts as trapped, which costs it its worker and nobody else anything.
_STOPPED_CODES = (-1, 134)
_REPORTED = b" returned with error message: "
_TRAPPED = b"error while executing at wasm backtrace:"

#: After a call of this export, Extism makes another instance for the next call.
_COMMAND = b"_start"

#: The names of the modules that WASI is imported from, with their lengths, as they stand before every such import.
_WASI = (b"\x16wasi_snapshot_preview1", b"\x0dwasi_unstable")

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
    """A call that did not return; ``kind`` is one of FailureKind, ``figure`` as in ``messages.Failed``."""

    def __init__(self, kind: str, text: str, figure: int = 0) -> None:
        super().__init__(text)
        self.kind, self.text, self.figure = kind, text, figure

    @property
    def sentence(self) -> str:
        return f"it came to {self.text}" if self.kind == FailureKind.LIMIT else self.text


class Blueprint:
    """A compiled module, of which workers make their instances.

    Extism's own HTTP and file mapping stay off, or a plugin would pass by the supervisor; WASI is on without
    directories, because guests built for ``wasm32-wasip1`` import it (the reference host does the same).
    """

    def __init__(self, wasm: bytes, functions: list[Any], limits: WorkerLimits) -> None:
        """Raises GuestFailure."""
        try:
            prepared = prepare(wasm, limits.wasm_memory_bytes)
        except ModuleRefused as refused:
            raise GuestFailure(FailureKind.TRAP, str(refused)) from refused
        self.limits = limits
        #: Exports to be called before any other.
        self.starts = prepared.starts
        #: Whether it may import WASI: the first use of that starts threads.
        self.has_wasi = any(name in wasm for name in _WASI)
        # Extism counts what is asked for later, and refuses an instance whose memory is larger from the beginning.
        counted_bytes = max(limits.wasm_memory_bytes - prepared.memory_bytes, prepared.memory_bytes)
        lib.extism_log_custom(b"extism::plugin=error")
        try:
            self.compiled = CompiledPlugin(_manifest(prepared.wasm, counted_bytes), wasi=True, functions=functions)
        except extism.Error as error:
            raise GuestFailure(FailureKind.TRAP, _reason(error)) from error


def _manifest(wasm: bytes, memory_bytes: int) -> bytes:
    """Bytes would be taken for a manifest when they look like one, and a manifest may name files: always wrap. Put
    together with as few copies as can be, because a module may have many megabytes."""
    settings = {
        "memory": {"max_pages": memory_bytes // WASM_PAGE_BYTES},
        "allowed_hosts": [],
        "allowed_paths": {},
    }
    rest = json.dumps(settings).removeprefix("{").encode("ascii")
    return b"".join((b'{"wasm":[{"data":"', base64.b64encode(wasm), b'"}],', rest))


class Guest:
    """An instance of a module."""

    def __init__(self, blueprint: Blueprint) -> None:
        """Raises GuestFailure."""
        try:
            self._instance = extism.Plugin(blueprint.compiled)  # owns what the pointer below points to
        except extism.Error as error:
            raise GuestFailure(FailureKind.TRAP, _reason(error)) from error
        self._pointer = self._instance.plugin
        self._starts = blueprint.starts
        self._has_started = False
        self._output_bound = blueprint.limits.frame_bytes
        self._names: dict[str, bytes] = {}  # of the exports that were asked for and are there

    def start(self) -> None:
        """What the module wants to run before anything else. Raises GuestFailure."""
        self._has_started = True
        for export in self._starts:
            self._call(export.encode(), b"")

    def call(self, export: str, data: bytes) -> bytes:
        """Call ``export``. Raises GuestFailure; anything but MISSING and GUEST leaves the instance unusable."""
        name = self._names.get(export) or self._find(export)
        if not self._has_started:
            self.start()
        self._has_started = name != _COMMAND
        return self._call(name, data)

    def _call(self, name: bytes, data: bytes) -> bytes:
        """Through Extism's C interface: ``extism.Plugin.call`` hides the return code, the only thing that tells a trap
        from an error the guest reported, and takes a code of 0 for a failure when the guest left an error text behind,
        which Extism's own Rust host does not."""
        code = lib.extism_plugin_call(self._pointer, name, data, len(data))
        said = _drain()  # also after success, or a guest that sets errors and returns 0 would fill it
        if code:
            raise self._failure(code, said)
        length = lib.extism_plugin_output_length(self._pointer)
        if length > self._output_bound:
            raise GuestFailure(FailureKind.LIMIT, "limits.output", length)
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
            return GuestFailure(FailureKind.LIMIT, "limits.wasm_memory")
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


def runtime_version() -> str:
    """Of libextism."""
    return str(extism.extism_version())
