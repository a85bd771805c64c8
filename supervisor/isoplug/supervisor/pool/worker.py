"""One worker: its process, its link, and how it ended."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_any
from contextlib import suppress
from typing import Any, NamedTuple

from isoplug.shared.errors import ServiceError, WorkerCrashed
from isoplug.shared.messages import Stop
from isoplug.supervisor.pool.link import Breach, Gone, Link

__all__ = ["ExitStatus", "Worker", "WorkerProcess"]

#: How long the zygote may take to report an exit that the pidfd has already shown.
_REPORT_SECONDS = 1.0


class ExitStatus(NamedTuple):
    """At most one is set; none when nobody can tell (the zygote died first)."""

    signal: int | None = None
    exit_code: int | None = None

    @classmethod
    def from_wait_status(cls, status: int) -> ExitStatus:
        if os.WIFSIGNALED(status):
            return cls(signal=os.WTERMSIG(status))
        return cls(exit_code=os.WEXITSTATUS(status))

    def __str__(self) -> str:
        return WorkerCrashed.describe(self.signal, self.exit_code)


class WorkerProcess:
    """A child of the zygote, named by a pidfd: a pid may be reused, a pidfd means this process for ever."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._lock = threading.Lock()  # a closed descriptor's number may name another process at once
        self._is_closed = False
        self.exited: Future[ExitStatus] = Future()  # resolved by the zygote's report
        self.has_exited = False  # the same, for those who ask often
        self.orphaned: Future[None] = Future()  # the zygote has died: no report will come, only the pidfd tells

    def report_exit(self, status: ExitStatus) -> None:
        """For the thread that reads the zygote."""
        self.has_exited = True
        self.exited.set_result(status)

    @property
    def is_alive(self) -> bool:
        return not self.wait(0.0)

    def wait(self, patience_seconds: float) -> bool:
        """True when the process has ended, at the latest after ``patience_seconds``."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(patience_seconds * 1000))

    def watch(self) -> int:
        """A new descriptor that becomes readable when the process has ended; whoever asked closes it. Raises
        ServiceError when the process has ended and been forgotten."""
        with self._lock:
            if self._is_closed:
                raise ServiceError("the plugin's worker has ended")
            return os.dup(self.pidfd)

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError):  # it ended by itself just now
            if not self._is_closed:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exit_status(self, patience_seconds: float = _REPORT_SECONDS) -> ExitStatus:
        """How it ended, as far as that is known after ``patience_seconds``."""
        news: tuple[Future[Any], ...] = (self.exited, self.orphaned)
        wait_for_any(news, patience_seconds, FIRST_COMPLETED)
        if self.exited.done():
            return self.exited.result()
        if self.orphaned.done():
            self.wait(patience_seconds)
        return ExitStatus()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self.pidfd)


class Worker:
    """A process that has loaded one plugin. Whoever holds its lease may use ``link``; ``end`` is for the last one."""

    def __init__(self, process: WorkerProcess, link: Link) -> None:
        self.process = process
        self.link = link
        self.started_at = time.monotonic()
        self.calls = 0
        self._is_closed = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_fit(self) -> bool:
        """Alive, and silent while nobody asked it anything."""
        return self.link.is_quiet()

    def next_call(self) -> int:
        self.calls += 1
        return self.calls

    def end(self, grace_seconds: float = 0.0) -> ExitStatus:
        """Stop the process, politely for ``grace_seconds``, then by SIGKILL; free everything. Idempotent."""
        if self._is_closed:
            return self.process.exit_status(0)
        self._is_closed = True
        if grace_seconds > 0:
            try:
                self.link.send(Stop())
            except (Gone, Breach):
                pass
            else:
                self.process.wait(grace_seconds)
        try:
            self.process.kill()
            return self.process.exit_status()
        finally:  # also when the wait is interrupted: nobody will come again
            self.link.close()
            self.process.close()
