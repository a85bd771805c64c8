"""From import table to host functions: every stub forwards bytes to the supervisor and returns its answer.

A stub decides nothing. It never raises either: cffi prints and swallows an exception of a callback, the guest gets
offset 0 and *the call succeeds*, so a failure would turn into an empty answer, which many functions use for success.
What cannot be answered is remembered in ``Courier.broken``; from then on the guest gets nothing more from the host, and
when its call ends the remembered failure is what the supervisor hears.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from extism import Function, ValType
from extism_sys import ffi, lib

from isoplug.shared.limits import EXIT_PROTOCOL, NOTICE_BYTES
from isoplug.shared.messages import Answer, FailureKind, HostCall, Notice
from isoplug.worker.guest import GuestFailure
from isoplug.worker.link import Link

__all__ = ["Courier", "register"]

_NAMESPACE = "extism:host/user"


class Courier:
    """Carries the host calls of the call under way; one per worker, used by its one thread.

    Made in the template, which has no link: a worker has to set its own before it makes an instance.
    """

    link: Link

    def __init__(self, frame_bytes: int) -> None:
        self.frame_bytes = frame_bytes
        self._call = 0
        self._is_called = False
        self._sequence = 0
        self.broken: GuestFailure | None = None

    def begin(self, call: int) -> None:
        self._call, self._sequence, self.broken = call, 0, None
        self._is_called = True

    def ask(self, function: str, payload: bytes) -> bytes:
        """Send one host call and wait for its answer."""
        self._sequence += 1
        self.link.send(HostCall(self._call, self._sequence, function, payload))
        answer = self.link.receive()
        if not isinstance(answer, Answer) or (answer.call, answer.sequence) != (self._call, self._sequence):
            os._exit(EXIT_PROTOCOL)
        return answer.payload

    def tell(self, function: str, payload: bytes) -> bytes:
        """Send one host call that nobody answers; a long one is answered all the same, so that it waits its turn."""
        if len(payload) > NOTICE_BYTES:
            return self.ask(function, payload)
        self.link.send(Notice(self._call, function, payload))
        return b""

    def serve(self, plugin: Any, offset: int, function: str, carry: Callable[[str, bytes], bytes]) -> int:
        """One host call of the guest, from its memory and back into it: where the answer is, 0 for none."""
        if self.broken is not None:
            return 0
        if not self._is_called:
            says = f"it calls {function} while it starts, before any call of its host"
            self.broken = GuestFailure(FailureKind.TRAP, says)
            return 0
        length = lib.extism_current_plugin_memory_length(plugin, offset)
        if length > self.frame_bytes:
            self.broken = GuestFailure(FailureKind.LIMIT, "limits.frame", length)
            return 0
        request = bytes(ffi.buffer(lib.extism_current_plugin_memory(plugin) + offset, length)) if length else b""
        answer = carry(function, request)
        if not answer:
            return 0
        room: int = lib.extism_current_plugin_memory_alloc(plugin, len(answer))
        if not room:
            self.broken = GuestFailure(FailureKind.LIMIT, "limits.wasm_memory")
            return 0
        # Asked again, since memory that has grown may lie elsewhere.
        ffi.memmove(lib.extism_current_plugin_memory(plugin) + room, answer, len(answer))
        return room


def register(courier: Courier, functions: list[str], notices: list[str]) -> list[Function]:
    """Make Extism host functions of the import table."""
    carriers = [(name, courier.ask) for name in functions] + [(name, courier.tell) for name in notices]
    integer = [ValType.I64]
    return [Function(_NAMESPACE, name, integer, integer, _callback, courier, name, carry) for name, carry in carriers]


def _serve(plugin: Any, inputs: Any, _inputs: int, outputs: Any, _outputs: int, data: Any) -> None:
    """Extism's C interface itself: what its Python SDK puts around a host function takes as long as all that is done
    here. One for all, as it is code that is made here, in the zygote: templates make none."""
    outputs[0].v.i64 = 0
    courier, function, carry = ffi.from_handle(data)
    try:
        outputs[0].v.i64 = courier.serve(plugin, inputs[0].v.i64, function, carry)
    except MemoryError:
        courier.broken = GuestFailure(FailureKind.LIMIT, "limits.process_memory")
    except Exception as error:  # noqa: BLE001  the guest would go on with whatever the slot holds
        courier.broken = GuestFailure(FailureKind.TRAP, f"{function}: {type(error).__name__}: {error}")


_callback = ffi.callback(
    "void(ExtismCurrentPlugin *, const ExtismVal *, ExtismSize, ExtismVal *, ExtismSize, void *)", _serve
)
