"""Forks for tests that lock something down: the test's own process stays as it is."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conftest import WAIT_SECONDS
from isoplug.worker.lockdown import privileges
from isoplug.worker.lockdown.kernel import system_call

__all__ = ["Ending", "confined", "outcome", "pretend_missing", "status"]


@dataclass(frozen=True)
class Ending:
    """How a fork ended: ``value`` is what its last step returned, or raised; ``killed_by`` a signal or None."""

    value: Any
    killed_by: signal.Signals | None


def confined(*steps: Callable[[], Any]) -> Ending:
    """Run the steps in a fork, one after the other, until one raises."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        _run(steps, write_end)
    os.close(write_end)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(WAIT_SECONDS * 1000):
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    said = os.read(read_end, 65_536)  # what a pipe holds
    os.close(read_end)
    killed_by = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
    return Ending(pickle.loads(said) if said else None, killed_by)


def _run(steps: tuple[Callable[[], Any], ...], write_end: int) -> None:
    faulthandler.disable()  # pytest's would report, and signal the fork itself
    value: Any = None
    try:
        for step in steps:
            value = step()
    except Exception as error:  # noqa: BLE001  it is what the test looks at
        value = error
    finally:
        os.write(write_end, pickle.dumps(value))
        os._exit(0)


def outcome(step: Callable[[], Any]) -> Any:
    """What ``step`` returns, or the OSError that it raises."""
    try:
        return step()
    except OSError as error:
        return error


def status(field: str) -> str:
    """A field of this process's /proc/self/status."""
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file)[field]


def pretend_missing(number: int, error: int) -> None:
    """From here on the kernel answers the system call ``number`` with ``error``, as one without it would."""
    privileges.renounce()
    load, equal, leave = 0x20, 0x15, 0x06
    code = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),
            (equal, 0, 1, number),
            (leave, 0, 0, 0x0005_0000 | error),
            (leave, 0, 0, 0x7FFF_0000),
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=HxxxxxxQ", 4, ctypes.addressof(buffer))
    system_call(_SECCOMP[os.uname().machine], 1, 0, ctypes.create_string_buffer(program, len(program)))


_SECCOMP = {"x86_64": 317, "aarch64": 277}
