"""From import table to host functions: every stub forwards bytes to the supervisor and returns its answer.

A stub decides nothing. It never raises either: Extism prints and swallows an exception of a host function, the guest
gets offset 0 and *the call succeeds*, so a failure would turn into an empty answer, which many functions use for
success. What cannot be answered is remembered in ``Courier.broken``; from then on the guest gets nothing more from the
host, and when its call ends the remembered failure is what the supervisor hears.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import extism

from isoplug.shared.limits import EXIT_PROTOCOL, NOTICE_BYTES
from isoplug.shared.messages import Answer, FailureKind, HostCall, Notice
from isoplug.worker.guest import GuestFailure
from isoplug.worker.link import Link

__all__ = ["Courier", "register"]

_NAMESPACE = "extism:host/user"
_SIGNATURE = ([extism.ValType.I64], [extism.ValType.I64])


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

    def serve(
        self, plugin: Any, inputs: Any, outputs: Any, function: str, carry: Callable[[str, bytes], bytes]
    ) -> None:
        """One host call of the guest, from its memory and back into it."""
        outputs[0].value = 0
        if self.broken is not None:
            return
        if not self._is_called:
            says = f"it calls {function} while it starts, before any call of its host"
            self.broken = GuestFailure(FailureKind.TRAP, says)
            return
        memory = plugin.memory_at_offset(inputs[0])
        if memory.length > self.frame_bytes:
            self.broken = GuestFailure(FailureKind.LIMIT, "limits.frame", memory.length)
            return
        answer = carry(function, bytes(plugin.memory(memory)) if memory.length else b"")
        if not answer:
            return
        room = plugin.alloc(len(answer))
        if not room.offset:
            self.broken = GuestFailure(FailureKind.LIMIT, "limits.wasm_memory")
            return
        plugin.memory(room)[:] = answer
        outputs[0].value = room.offset


def register(courier: Courier, functions: list[str], notices: list[str]) -> list[Any]:
    """Make Extism host functions of the import table. Once per process: Extism keeps them in a process-wide list."""
    carriers = [(name, courier.ask) for name in functions] + [(name, courier.tell) for name in notices]
    return [_stub(courier, name, carry) for name, carry in carriers]


def _stub(courier: Courier, function: str, carry: Callable[[str, bytes], bytes]) -> Any:
    def stub(plugin: Any, inputs: Any, outputs: Any, *_: Any) -> None:
        try:
            courier.serve(plugin, inputs, outputs, function, carry)
        except MemoryError:
            courier.broken = GuestFailure(FailureKind.LIMIT, "limits.process_memory")
        except Exception as error:  # noqa: BLE001  Extism would swallow it and let the guest go on
            courier.broken = GuestFailure(FailureKind.TRAP, f"{function}: {type(error).__name__}: {error}")

    return extism.host_fn(name=function, namespace=_NAMESPACE, signature=_SIGNATURE)(stub)
