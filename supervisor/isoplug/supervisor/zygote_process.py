"""The process that templates are forked from, and our end of the conversation with it."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import SetupError
from isoplug.supervisor.interpreter import fresh_interpreter
from isoplug.supervisor.lifeline import Lifeline

__all__ = ["ZygoteProcess", "cannot_start"]

_STDERR_BYTES = 4_096


class ZygoteProcess:
    """A fresh interpreter, which imports what templates and workers need. Nobody has to wait for that: what is sent
    through ``control`` stays there until it can be read. Raises OSError."""

    def __init__(self, runtime_dir: Path, lifeline: Lifeline) -> None:
        with ExitStack() as ours, ExitStack() as lent:  # ``lent`` is closed here, the child has it by then
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(self.control.close)
            lent.callback(theirs.close)
            supervisor_pidfd = os.pidfd_open(os.getpid())
            lent.callback(os.close, supervisor_pidfd)
            arguments = {
                "control_fd": theirs.fileno(),
                "supervisor_pidfd": supervisor_pidfd,
                "lifeline_fd": lifeline.read_fd,
                "runtime_dir": str(runtime_dir),
            }
            self._process = subprocess.Popen(
                fresh_interpreter("isoplug.worker.zygote", arguments),
                env={"EXTISM_CACHE_CONFIG": ""},  # no compilation cache: whoever can write there owns the next worker
                cwd="/",
                pass_fds=(theirs.fileno(), supervisor_pidfd, lifeline.read_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            ours.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, patience_seconds: float) -> bool:
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        self._process.wait()
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            os.set_blocking(stderr.fileno(), False)  # a child that was being forked may still have the write end
            return (stderr.read(_STDERR_BYTES) or b"").decode("utf-8", "replace").strip()

    def end(self) -> None:
        """At once, and the conversation with it."""
        self.kill()
        self.last_words()
        self.control.close()


def cannot_start(error: OSError) -> SetupError:
    return SetupError(f"cannot start the process that workers are forked from: {error}; free processes or descriptors")
