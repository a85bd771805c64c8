"""Machines that lack something, made from this one: the kernel itself refuses system calls to whatever runs there.

``lacking({"chroot": errno.EPERM}, command)`` is a command that runs ``command`` on such a machine; a container's
profile or an older kernel does the same.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NOBODY", "as_nobody", "lacking", "why_nobody_can"]

#: A user id without an account, as containers have them.
NOBODY = 61_184

#: Number on x86-64, number on aarch64.
_NUMBERS = {"chroot": (161, 51), "setresuid": (117, 147), "seccomp": (317, 277), "landlock_create_ruleset": (444, 444)}
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x0005_0000, 0x7FFF_0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def lacking(calls: Mapping[str, int], command: Sequence[object]) -> list[str]:
    """``calls``: by name, the errno that each is refused with."""
    return [sys.executable, "-I", __file__, json.dumps(dict(calls)), *map(str, command)]


def as_nobody() -> dict[str, Any]:
    """Arguments of ``subprocess.Popen`` for an unprivileged user; only for root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@functools.cache
def why_nobody_can() -> str:
    """Why no unprivileged process can be made here that runs isoplug; nothing when one can."""
    if os.geteuid() != 0:
        return "needs root"
    try:
        subprocess.run(
            [sys.executable, "-c", "import extism, isoplug.supervisor.supervisor"],
            check=True,
            capture_output=True,
            cwd="/",
            **as_nobody(),
        )
    except (OSError, subprocess.CalledProcessError):
        return f"an unprivileged user cannot read this interpreter and its packages ({sys.executable})"
    return ""


def _refuse(calls: Mapping[str, int]) -> None:
    column = ("x86_64", "aarch64").index(os.uname().machine)
    program = [(_LOAD_NUMBER, 0, 0, 0)]
    for name, number in calls.items():
        program += [(_JUMP_IF_EQUAL, 0, 1, _NUMBERS[name][column]), (_RETURN, 0, 0, _ERRNO | number)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, filter_, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no filter can be installed")


if __name__ == "__main__":
    _, refused, *command = sys.argv
    _refuse(json.loads(refused))
    os.execv(command[0], command)
