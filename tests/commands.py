"""The installed command, as a person or a script runs it, and the terminal that a person sits at."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["BOOT_SECONDS", "SCRIPT", "Terminal", "at_terminal", "needs_script", "run_command"]

SCRIPT = Path(sys.executable).with_name("isoplug")
#: What a run of a few seconds takes at most, on a machine that has other things to do.
_PATIENCE_SECONDS = 240
#: Until a command does what it is to do, at most: it starts, imports, loads plugins and makes its first calls.
BOOT_SECONDS = 100.0
_COLUMNS = 100

needs_script = pytest.mark.skipif(not SCRIPT.exists(), reason="isoplug is not installed beside this interpreter")


def run_command(
    command: Sequence[str | Path],
    folder: Path,
    *,
    env: Mapping[str, str],
    codes: Sequence[int] = (0,),
) -> tuple[str, str]:
    """stdout and stderr, which nobody's terminal is; ``env`` comes on top of this process's."""
    run = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert run.returncode in codes, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert "\x1b" not in run.stdout + run.stderr
    return run.stdout, run.stderr


class Terminal:
    """``text`` is what was written to ``slave``, read by a thread, so that nobody who writes waits."""

    def __init__(self) -> None:
        self._master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._master, 4096):
                self.text += chunk.decode(errors="replace")
        except OSError:  # EIO: the other end is closed
            pass

    def close(self) -> None:
        """When nobody has ``slave`` any more. ``text`` is whole then."""
        self._reader.join()
        os.close(self._master)


@contextmanager
def at_terminal(command: Sequence[str | Path], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """``command`` with a terminal for stderr. Killed at the end."""
    terminal = Terminal()
    try:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "TERM": "xterm"},
                stdout=subprocess.PIPE,
                stderr=terminal.slave,
            )
        finally:
            os.close(terminal.slave)
        with process:
            try:
                yield process, terminal
            finally:
                process.kill()
    finally:
        terminal.close()
