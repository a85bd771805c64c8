"""What ends every process of a supervisor with it, by whatever it ends itself."""

from __future__ import annotations

import os

__all__ = ["Lifeline"]


class Lifeline:
    """A pipe whose write end is here and nowhere else: its closing, by whatever ends this process, kills everybody who
    holds a read end (see ``isoplug.worker.lockdown.lifeline``). Raises OSError."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def new_end(self) -> int:
        """A read end with a description of its own, because that is what a signal and its receiver belong to. Raises
        OSError."""
        return os.open(f"/proc/self/fd/{self.read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def cut(self) -> None:
        os.close(self._write_fd)

    def close(self) -> None:
        """After ``cut``."""
        os.close(self.read_fd)
