"""Native code in a template's place: what a module does that its compiler does not withstand.

It is imported into the zygote, as ``hostile_worker`` is. A module that is ``MARK`` with the name of a function below
has the template run that, locked as templates are, where the honest one would compile.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgpack

if TYPE_CHECKING:
    import pytest

MARK: Final = b"hostile template: "


def take_over() -> None:
    """In the zygote, before it begins."""
    from isoplug.worker import template

    honest = template.Blueprint

    def blueprint(wasm: bytes, *rest: Any) -> Any:
        if not wasm.startswith(MARK):
            return honest(wasm, *rest)
        ATTACKS[wasm.removeprefix(MARK).decode()](sys._getframe(1).f_locals["server"]._control)
        rest_for_ever()

    patched: Any = template
    patched.Blueprint = blueprint


def zygotes_run_hostile_code(patch: pytest.MonkeyPatch) -> None:
    """Those that are started from now on."""
    from zygotes import zygotes_run

    zygotes_run(patch, "import hostile_template; hostile_template.take_over()")


def rest_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def say(control: socket.socket, *words: Any, fds: tuple[int, ...] = ()) -> None:
    socket.send_fds(control, [msgpack.packb(words)], fds)


def forked(control: socket.socket) -> int:
    """Says that it has compiled, and forks when it is asked to: the pid of a process that sleeps."""
    say(control, "compiled")
    packet, *_ = socket.recv_fds(control, 65_536, 4)
    pid = slept()
    say(control, "forked", msgpack.unpackb(packet)[0], pid, fds=(os.pidfd_open(pid),))
    return pid


def slept() -> int:
    """A fork that has closed all that could end it."""
    pid = os.fork()
    if not pid:
        os.closerange(0, 64)
        rest_for_ever()
    return pid


def forks_in_secret(control: socket.socket) -> None:
    pids = [slept() for _ in range(3)]
    say(control, "failed", f"secret: {pids}")


def forks_in_secret_and_dies(control: socket.socket) -> None:
    forks_in_secret(control)
    os.kill(os.getpid(), signal.SIGKILL)


def reports_the_end_of_one_that_lives(control: socket.socket) -> None:
    say(control, "exited", forked(control), 0, 0, 0.0)


def figure(cpu_seconds: float, peak_bytes: int = 0) -> Any:
    def reports_a_figure_that_is_none(control: socket.socket) -> None:
        pid = forked(control)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say(control, "exited", pid, signal.SIGXCPU, peak_bytes, cpu_seconds)

    return reports_a_figure_that_is_none


def says_nothing(control: socket.socket) -> None:
    rest_for_ever()


def says_what_nobody_understands(control: socket.socket) -> None:
    control.send(b"\xc1" * 60_000)


def floods_with_descriptors(control: socket.socket) -> None:
    packet = msgpack.packb(["refused", 1 << 40, "x"])
    while True:
        socket.send_fds(control, [packet], [0] * 100)


def hands_over_its_parent(control: socket.socket) -> None:
    say(control, "compiled")
    packet, *_ = socket.recv_fds(control, 65_536, 4)
    parent = os.getppid()
    say(control, "forked", msgpack.unpackb(packet)[0], parent, fds=(os.pidfd_open(parent),))


ATTACKS: Final = {
    "forks_in_secret": forks_in_secret,
    "forks_in_secret_and_dies": forks_in_secret_and_dies,
    "reports_the_end_of_one_that_lives": reports_the_end_of_one_that_lives,
    "cpu_time_that_is_no_number": figure(math.nan),
    "cpu_time_without_end": figure(math.inf),
    "cpu_time_before_zero": figure(-1.0),
    "memory_below_zero": figure(1.0, -1),
    "says_nothing": says_nothing,
    "says_what_nobody_understands": says_what_nobody_understands,
    "floods_with_descriptors": floods_with_descriptors,
    "hands_over_its_parent": hands_over_its_parent,
}
