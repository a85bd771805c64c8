"""Instructions in executable memory, prepared when the zygote imports this: before any lock.

Under the lock a process cannot make memory executable, but an attacker who controls its stack finds any instruction
somewhere in its libraries. So what is prepared here is what a code-reuse chain has anyway: a system call in each of the
processor's ways of entering the kernel, and nothing that could not be found.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

from attacks.kernel import MACHINE, NUMBERS
from attacks.registry import Unavailable

__all__ = ["ELF_EXIT_42", "RETURN_42", "enter_by_int_80", "low_memory", "run", "spawn", "spawn_waiting"]

#: A function that returns 42.
RETURN_42 = {
    "x86_64": bytes.fromhex("b82a000000 c3"),
    "aarch64": bytes.fromhex("40058052 c0035fd6"),
}[MACHINE]

_EXIT_42 = {
    "x86_64": bytes.fromhex("bf2a000000 b8e7000000 0f05"),  # exit_group(42)
    "aarch64": bytes.fromhex("40058052 c80b8052 010000d4"),
}[MACHINE]

_MAP_32BIT = 0x40
_PAGE = 4096
_INT_80_AT, _WAITING_AT = 256, 512  # on the page


def _elf(code: bytes) -> bytes:
    """The smallest program: one segment that holds the headers and ``code``."""
    base, headers = 0x40_0000, 64 + 56
    size = headers + len(code)
    machine = {"x86_64": 62, "aarch64": 183}[MACHINE]

    def number(value: int, length: int) -> bytes:
        return value.to_bytes(length, "little")

    return b"".join(
        (
            b"\x7fELF\x02\x01\x01" + bytes(9) + number(2, 2) + number(machine, 2) + number(1, 4),
            number(base + headers, 8) + number(64, 8) + bytes(12) + number(64, 2) + number(56, 2) + number(1, 2),
            bytes(6),
            number(1, 4) + number(5, 4) + bytes(8) + number(base, 8) * 2 + number(size, 8) * 2 + number(0x1000, 8),
            code,
        )
    )


#: A program that ends with exit code 42.
ELF_EXIT_42 = _elf(_EXIT_42)

#: spawn(number, five arguments): the system call, and where it returns 0 (in the child) exit(7). It touches no stack,
#: so a child may share its parent's.
_SPAWN = bytes.fromhex("4889f8 4889f7 4889d6 4889ca 4d89c2 4d89c8 0f05 4885c0 750c bf07000000 b83c000000 0f05 c3")

#: The same, but the child stays and waits: poll of nothing, without an end.
_SPAWN_WAITING = bytes.fromhex(
    "4889f8 4889f7 4889d6 4889ca 4d89c2 4d89c8 0f05 4885c0 7510 31ff 31f6 83caff b807000000 0f05 ebf0 c3"
)

#: enter(number, three arguments): int 0x80, the entry of 32-bit programs.
_INT_80 = bytes.fromhex("53 89f8 89f3 87d1 cd80 4898 5b c3")

_call_spawn = ctypes.CFUNCTYPE(ctypes.c_long, *(ctypes.c_ulong,) * 6)
_call_int_80 = ctypes.CFUNCTYPE(ctypes.c_long, *(ctypes.c_uint,) * 4)
_call_plain = ctypes.CFUNCTYPE(ctypes.c_int)


def _address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def _prepared() -> tuple[mmap.mmap, mmap.mmap] | None:
    if MACHINE != "x86_64":
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    code = mmap.mmap(-1, _PAGE, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    code[: len(_SPAWN)] = _SPAWN
    code[_INT_80_AT : _INT_80_AT + len(_INT_80)] = _INT_80
    code[_WAITING_AT : _WAITING_AT + len(_SPAWN_WAITING)] = _SPAWN_WAITING
    protected = ctypes.CDLL(None).mprotect(
        ctypes.c_void_p(_address(code)), ctypes.c_size_t(_PAGE), mmap.PROT_READ | mmap.PROT_EXEC
    )
    assert protected == 0
    return code, mmap.mmap(-1, 16 * _PAGE, flags | _MAP_32BIT, mmap.PROT_READ | mmap.PROT_WRITE)


_AREAS = _prepared()


def _areas() -> tuple[mmap.mmap, mmap.mmap]:
    if _AREAS is None:
        raise Unavailable(f"no instructions were prepared for {MACHINE}")
    return _AREAS


def spawn(name: str, *arguments: int) -> int:
    """A system call of which a second thread or process may return; that one ends at once, with exit code 7."""
    return _spawned(0, name, arguments)


def spawn_waiting(name: str, *arguments: int) -> int:
    """The same, and the second one stays until its process ends."""
    return _spawned(_WAITING_AT, name, arguments)


def _spawned(entry: int, name: str, arguments: Sequence[int]) -> int:
    code, _ = _areas()
    padded = (*arguments, *(0,) * (5 - len(arguments)))
    result = int(_call_spawn(_address(code) + entry)(NUMBERS[name], *padded))
    if result < 0:
        raise OSError(-result, "")
    return result


def enter_by_int_80(number: int, *arguments: int) -> int:
    """A system call by its number of 32-bit x86; pointers have to lie in ``low_memory``."""
    code, _ = _areas()
    padded = (*arguments, *(0,) * (3 - len(arguments)))
    result = int(_call_int_80(_address(code) + _INT_80_AT)(number, *padded))
    if result < 0:
        raise OSError(-result, "")
    return result


def low_memory(data: bytes = b"", offset: int = 0) -> int:
    """The address of ``data``, below 4 GiB."""
    _, low = _areas()
    low[offset : offset + len(data)] = data
    return _address(low) + offset


def run(address: int) -> int:
    """Call the code at ``address``."""
    return int(_call_plain(address)())
