"""A host program in a process of its own, so that a test may kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

__all__ = ["PREAMBLE", "Host", "is_alive"]

PREAMBLE = """\
import base64, json, os, signal, sys, threading, time
import psutil
from isoplug.supervisor import Supervisor

plugins, workspace, state = sys.argv[1:]
def make(**arguments):
    return Supervisor(plugins_dir=plugins, workspace=workspace, state_dir=state, **arguments)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: several threads may speak
def family():
    return [child.pid for child in psutil.Process().children(recursive=True)]
def wait_until(condition):
    give_up_at = time.monotonic() + 20
    while not condition():
        if time.monotonic() > give_up_at:
            say("gave up"); os._exit(3)
        time.sleep(0.002)
"""


def is_alive(process: psutil.Process) -> bool:
    """False of a zombie, too. Between two looks at a process, it may be gone."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Host:
    """A supervisor in a process of its own, running ``script``; ``say`` there is ``read`` here."""

    def __init__(self, script: str, arguments: list[str], base: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(base)},
        )
        self.pid = self._process.pid
        self.family: list[psutil.Process] = []

    @property
    def stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def read(self) -> list[str]:
        return self.stdout.readline().split()

    def ready(self) -> None:
        """Read ``ready PID...`` and remember those processes. A host that ends right after that may have taken them
        with it by now."""
        word, *pids = self.read()
        assert word == "ready"
        assert pids
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                self.family.append(psutil.Process(int(pid)))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> int:
        return self._process.wait(60)

    def is_gone(self) -> bool:
        return not any(map(is_alive, self.family))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.stdout.close()
        for process in self.family:
            with suppress(psutil.NoSuchProcess):  # it ends just now, as it should
                process.kill()
