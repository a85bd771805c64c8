"""The layers' door to the C library: calls that Python has no function for.

ctypes, because each is one or two calls with numbers for arguments; there is no binding that a worker could rely on
(ARCHITECTURE.md compares them).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["capget", "capset", "mprotect", "prctl", "system_call"]

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """syscall(2): integers, and buffers for pointers. Raises OSError."""
    widened = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *widened))


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). The arguments that an option does not use are zero, as several of them demand. Raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)))


def capget(header: ctypes.Array[ctypes.c_char], data: ctypes.Array[ctypes.c_char]) -> None:
    _checked(_libc.capget(header, data))


def capset(header: ctypes.Array[ctypes.c_char], data: ctypes.Array[ctypes.c_char]) -> None:
    _checked(_libc.capset(header, data))


def mprotect(start: int, length: int, protection: int) -> None:
    _checked(_libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(protection)))


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
