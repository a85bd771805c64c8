"""The check that this machine can run isoplug at all."""

from __future__ import annotations

import os
import platform
import sys

from isoplug.shared.errors import SetupError

__all__ = ["check_platform"]


def check_platform() -> None:
    """Raises SetupError anywhere but on Linux (x86-64, aarch64) with pidfds and CPython 3.11 or newer."""
    machine = platform.machine()
    problems = []
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        problems.append(f"this is {sys.platform} on {machine}")
    if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
        problems.append(f"this is {sys.implementation.name} {platform.python_version()}")
    if not problems:
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            problems.append(f"the kernel has no pidfds ({error.strerror})")
    if problems:
        raise SetupError(
            "isoplug runs on Linux 5.3 or newer (x86-64, aarch64) with CPython 3.11 or newer; " + ", ".join(problems)
        )
