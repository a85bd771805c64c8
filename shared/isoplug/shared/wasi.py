"""What a supervisor and the process of one WASI program tell each other: one order, one verdict."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from isoplug.shared.lockdown import Lockdown

__all__ = ["VERDICT_BYTES", "Order", "Verdict", "VerdictKind", "decode_verdict", "encode_verdict"]

#: Longest verdict; a pipe takes this much in one write.
VERDICT_BYTES = 4_096


class Order(NamedTuple):
    """What to run, where, and within which bounds. ``folder`` is what the program sees as ``/`` and ``.``; when it may
    get a user of its own, it becomes that user's."""

    module: bytes
    arguments: list[str]
    folder: str
    program_memory_bytes: int
    process_memory_bytes: int
    file_bytes: int
    cpu_seconds: int
    lockdown: Lockdown

    def encode(self) -> bytes:
        order: bytes = msgpack.packb(tuple(self))
        return order

    @classmethod
    def decode(cls, order: bytes) -> Order:
        """Of bytes that a supervisor wrote: nothing is checked."""
        *fields, lockdown = msgpack.unpackb(order, max_bin_len=len(order))
        return cls._make([*fields, Lockdown(lockdown)])


class VerdictKind:
    """How a program ended, or why it never began."""

    EXITED = "exited"  #: the text is its exit code
    TRAPPED = "trapped"  #: the text is the runtime's
    REFUSED = "refused"  #: the module cannot be run; the text says why
    UNPROTECTED = "unprotected"  #: it may only run with every layer of the lock-down; the text says what is missing
    MISSING = "missing"  #: there is no WASI runtime


class Verdict(NamedTuple):
    kind: str
    text: str


def encode_verdict(verdict: Verdict) -> bytes:
    """Cut to ``VERDICT_BYTES``."""
    return f"{verdict.kind}\n{verdict.text}".encode("utf-8", "replace")[:VERDICT_BYTES]


def decode_verdict(data: bytes) -> Verdict:
    """Of any bytes: the program may have taken its process over. An unknown kind is the reader's to refuse."""
    kind, _, text = data.decode("utf-8", "replace").partition("\n")
    return Verdict(kind, text)
