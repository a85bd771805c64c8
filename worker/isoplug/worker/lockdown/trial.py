"""What this machine offers: each layer by itself, in a process of its own that then tries what the layer takes away.

For ``isoplug doctor``. A template reports which layers it applied; this shows that they hold, Landlock above all, of
which the kernel tells nobody anything.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial

from isoplug.shared.lockdown import Layer
from isoplug.worker.lockdown import capabilities, jail, landlock, privileges, seccomp, undumpable, user
from isoplug.worker.lockdown.kernel import prctl
from isoplug.worker.lockdown.layer import LayerMissing, applicable

__all__ = ["hold", "landlock_abi"]

_PR_GET_DUMPABLE, _PR_GET_NO_NEW_PRIVS = 3, 39  # <linux/prctl.h>
_STATUS = "/proc/thread-self/status"


def hold(folder: str) -> dict[Layer, str]:
    """For each layer that this user can apply the reason why it does not hold here; nothing when it does. ``folder`` is
    an empty one. Not for a process that has threads."""
    return {layer: _reason(layer, *_in_a_fork(trial)) for layer, trial in _trials(folder).items()}


def landlock_abi() -> int:
    """0: there is none."""
    try:
        return landlock.abi()
    except LayerMissing:
        return 0


def _trials(folder: str) -> dict[Layer, Callable[[], str]]:
    trials: dict[Layer, Callable[[], str]] = {
        Layer.JAIL: partial(_jail, folder),
        Layer.USER: _user,
        Layer.CAPABILITIES: _capabilities,
        Layer.NO_NEW_PRIVILEGES: _no_new_privileges,
        Layer.UNDUMPABLE: _undumpable,
        Layer.LANDLOCK: _landlock,
        Layer.SECCOMP: _seccomp,
    }
    return {layer: trial for layer, trial in trials.items() if layer in applicable()}


# Each applies its layer and returns what the layer failed to stop, or nothing.


def _jail(folder: str) -> str:
    jail.enter(folder)
    return "the root folder is not empty" if os.listdir("/") else ""


def _user() -> str:
    user.become(user.choose())
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return ""
    return "the way back to root is open"


def _capabilities() -> str:
    capabilities.bound()
    capabilities.drop()
    with open(_STATUS) as status:
        held = [line.split()[1] for line in status if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))]
    return "some are left" if any(int(one, 16) for one in held) else ""


def _no_new_privileges() -> str:
    privileges.renounce()
    return "" if prctl(_PR_GET_NO_NEW_PRIVS) else "the flag is not set"


def _undumpable() -> str:
    undumpable.hide()
    return "the flag is not set" if prctl(_PR_GET_DUMPABLE) else ""


def _landlock() -> str:
    privileges.renounce()
    landlock.deny_everything()
    try:
        os.listdir("/")
    except PermissionError:
        return ""
    return "the root folder can be read"


def _seccomp() -> str:
    privileges.renounce()
    seccomp.enter(seccomp.Stage.RUN)
    socket.socket()  # ends the process
    return "a socket can be made"


def _reason(layer: Layer, answer: str, ended_by: int) -> str:
    """Why the layer does not hold; nothing when it does."""
    wanted = signal.SIGSYS if layer is Layer.SECCOMP and not answer else 0
    return answer if ended_by == wanted else f"the attempt ended by {signal.Signals(ended_by).name}"


def _in_a_fork(trial: Callable[[], str]) -> tuple[str, int]:
    """What the trial said, and the signal that ended it, or 0."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, _outcome(trial).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8", errors="replace") as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    return answer, os.WTERMSIG(status)


def _outcome(trial: Callable[[], str]) -> str:
    try:
        return trial()
    except LayerMissing as gap:
        return str(gap)
    except OSError as error:
        return f"refused: {error.strerror}"
