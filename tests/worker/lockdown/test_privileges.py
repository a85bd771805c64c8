"""No new privileges, not dumpable: flags of a process that its forks inherit."""

from __future__ import annotations

import os
import signal
from functools import partial

from confined import Ending, confined, status
from isoplug.worker.lockdown import capabilities, privileges, undumpable


def test_an_exec_gives_no_privileges_any_more() -> None:
    assert confined(privileges.renounce, partial(status, "NoNewPrivs")).value == "1"


def test_forks_inherit_that() -> None:
    assert confined(privileges.renounce, lambda: confined(partial(status, "NoNewPrivs"))).value == Ending("1", None)


def reach_into_a_fork(hidden: bool) -> str | None:
    """Open the memory of a child, which nobody is nearer to; the error's name, or None when it opens."""
    ready, say_ready = os.pipe()
    pid = os.fork()
    if not pid:
        if hidden:
            undumpable.hide()
        os.write(say_ready, b".")
        signal.pause()
    os.read(ready, 1)
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError as error:
        return type(error).__name__
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def test_nobody_looks_into_its_memory_who_could_otherwise() -> None:
    assert confined(capabilities.drop, partial(reach_into_a_fork, False)).value is None
    assert confined(capabilities.drop, partial(reach_into_a_fork, True)).value == "PermissionError"


def test_forks_of_it_are_hidden_as_well() -> None:
    ending = confined(capabilities.drop, undumpable.hide, partial(reach_into_a_fork, False))
    assert ending.value == "PermissionError"
