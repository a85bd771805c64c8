"""System calls by name, with their arguments as they are: no library stands between the attack and the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

import ziglang

from attacks.registry import Unavailable

__all__ = ["AT_FDCWD", "MACHINE", "NUMBERS", "call", "call_number", "memory", "prctl", "read", "struct_bytes"]

AT_FDCWD = -100
MACHINE = platform.machine()

_HEADERS = {"x86_64": "x86-linux-any", "aarch64": "aarch64-linux-any"}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _numbers(architecture: str) -> dict[str, int]:
    """From the kernel's own header, which the compiler of the tests' guests brings along."""
    include = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    header = (include / _HEADERS[architecture] / "asm" / "unistd_64.h").read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)$", header, re.MULTILINE)}


NUMBERS = _numbers(MACHINE)


def call(name: str, *arguments: Any) -> int:
    """One system call; arguments are integers, bytes, ctypes objects or None. Raises OSError; Unavailable when this
    architecture never had that call."""
    if name not in NUMBERS:
        raise Unavailable(f"{MACHINE} has no {name}")
    return call_number(NUMBERS[name], *arguments)


def call_number(number: int, *arguments: Any) -> int:
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(number), *map(_word, arguments)))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _word(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_ulong(argument & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    if argument is None:
        return ctypes.c_void_p(None)
    return ctypes.byref(argument)


def prctl(option: int, *arguments: Any) -> int:
    return call("prctl", option, *arguments, *(0,) * (4 - len(arguments)))


def memory(size: int) -> Any:
    """A zeroed buffer."""
    return ctypes.create_string_buffer(size)


def struct_bytes(buffer: Any, length: int | None = None) -> bytes:
    return bytes(buffer.raw[:length])


def read(fd: int, size: int = 4096) -> bytes:
    buffer = memory(size)
    return struct_bytes(buffer, call("read", fd, buffer, size))
