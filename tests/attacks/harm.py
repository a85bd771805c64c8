"""What native code can do to its own process, whatever the layers: the host bounds it from outside.

These are no attacks with a verdict of their own: they go on until something ends them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import NoReturn

from attacks.kernel import call
from attacks.pages import mapped
from attacks.registry import question
from attacks.targets import Targets
from attacks.undoing import all_signals_blocked, lifeline_closed

__all__: list[str] = []

_PAGE = 4096
_READ_WRITE = 3


def forever() -> NoReturn:
    while True:
        time.sleep(1)


@question
def take_all_memory(targets: Targets) -> str:
    """map and touch pages until there are no more, and keep them"""
    while True:
        ctypes.memset(mapped(_READ_WRITE), 1, _PAGE)


@question
def take_all_processor_time(targets: Targets) -> str:
    """compute, with every signal blocked"""
    all_signals_blocked(targets)
    while True:
        pass


@question
def wait_for_ever(targets: Targets) -> str:
    """answer nothing"""
    forever()


@question
def stop_itself(targets: Targets) -> str:
    """SIGSTOP"""
    call("kill", os.getpid(), signal.SIGSTOP)
    forever()


@question
def call_without_an_end(targets: Targets) -> str:
    """the cheapest call there is, so that the processor's time is the kernel's"""
    while True:
        call("gettid")


@question
def fill_standard_error(targets: Targets) -> str:
    """write where the supervisor reads last words"""
    line = b"x" * _PAGE
    while True:
        try:
            call("write", 2, line, len(line))
        except OSError:
            forever()


@question
def ignore_its_own_fault(targets: Targets) -> str:
    """a fault of which the process has asked not to hear"""
    action = (ctypes.c_ulong * 4)(1, 0, 0, 0)  # SIG_IGN
    call("rt_sigaction", signal.SIGSEGV, action, None, 8)
    ctypes.memset(1, 0, 1)
    return "it went on"


@question
def outlive_the_supervisor(targets: Targets) -> str:
    """close what ends this process with its supervisor, and block every signal"""
    all_signals_blocked(targets)
    return lifeline_closed(targets)
