"""One worker: its process, its link, and how it ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Protocol

from isoplug.shared.errors import ServiceError
from isoplug.shared.limits import LAST_WORDS_BYTES, WorkerLimits
from isoplug.shared.messages import Stop
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pending import Pending
from isoplug.supervisor.pool import kernel
from isoplug.supervisor.pool.budget import Allowance, Budget, Idleness
from isoplug.supervisor.pool.cpu import CpuClock
from isoplug.supervisor.pool.exit_status import ExitStatus, readable
from isoplug.supervisor.pool.link import Breach, Gone, Link, Silence

__all__ = ["Origin", "Worker", "WorkerProcess"]

#: How long its parent may take to report an exit that the pidfd has already shown.
_REPORT_SECONDS = 1.0


class WorkerProcess:
    """A child of the zygote or of a template, named by a pidfd: a pid may be reused, a pidfd means this process for
    ever.

    ``stderr_fd`` is the read end of its standard error. It is read once the process is dead, and the process dies when
    it is closed (``worker.lockdown.last_words``). ``limits`` explain its death.
    """

    def __init__(self, pid: int, pidfd: int, stderr_fd: int, limits: WorkerLimits) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._stderr_fd = stderr_fd
        self._limits = limits
        self._oom_kills_before = kernel.oom_kills()
        self._lock = threading.Lock()  # a closed descriptor's number may name another process at once
        self._is_closed = False
        self._was_killed = False
        self._last_words = ""
        self.exited: Pending[ExitStatus] = Pending()  # resolved by the hub's thread
        self.has_exited = False  # the same, for those who ask often

    def report_exit(
        self, wait_status: int | None, peak_bytes: int | None = None, cpu_seconds: float | None = None
    ) -> None:
        """It has ended, and this is what its parent was told, or nothing when that had died before. Raises ValueError
        when it is alive."""
        with self._lock:
            if not self._is_closed and self.is_alive:
                raise ValueError("it reported the end of a process that is alive")
        status = self._findings(wait_status)._replace(peak_bytes=peak_bytes, cpu_seconds=cpu_seconds)
        self.has_exited = True
        self.exited.set_result(status)

    @property
    def is_alive(self) -> bool:
        return not self.wait(0.0)

    def wait(self, patience_seconds: float) -> bool:
        """True when the process has ended, at the latest after ``patience_seconds``."""
        return self._is_closed or kernel.has_ended(self.pidfd, patience_seconds)

    def is_dying(self) -> bool:
        """See ``kernel.is_dying``; also when it is dead."""
        return self._is_closed or kernel.is_dying(self.pidfd)

    def watch(self) -> int:
        """A new descriptor that becomes readable when the process has ended; whoever asked closes it. Raises
        ServiceError when the process has ended and been forgotten."""
        with self._lock:
            if self._is_closed:
                raise ServiceError("the plugin's worker has ended")
            return os.dup(self.pidfd)

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError):  # it ended by itself just now
            if not self._is_closed and self.is_alive:
                self._was_killed = True
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exit_status(self, patience_seconds: float = _REPORT_SECONDS) -> ExitStatus:
        """How it ended, as far as that is known after ``patience_seconds``."""
        try:
            return self.exited.result(patience_seconds)
        except TimeoutError:  # its parent is stopped
            return self._findings(self._wait_status())

    def last_words(self) -> str:
        """What it said on its standard error before it died; empty while it lives."""
        # Reading from a full pipe signals its writer, see ``lifeline.tie``: never while the process may be alive. It is
        # kept, because several ask.
        with self._lock, suppress(BlockingIOError):  # empty, and a child of the dead process still has the write end
            if not self._is_closed and not self.is_alive:
                self._last_words += readable(os.read(self._stderr_fd, LAST_WORDS_BYTES))
        return self._last_words

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self.pidfd)
                os.close(self._stderr_fd)

    def _findings(self, wait_status: int | None) -> ExitStatus:
        """What this process can find out by itself."""
        status = ExitStatus(
            memory_limit_bytes=self._limits.process_memory_bytes,
            cpu_limit_seconds=self._limits.cpu_seconds,
            last_words=self.last_words(),
            oom_kills=kernel.oom_kills() - self._oom_kills_before,
            was_killed=self._was_killed,
        )
        return status if wait_status is None else status.with_wait_status(wait_status)

    def _wait_status(self) -> int | None:
        with self._lock:
            return None if self._is_closed else kernel.wait_status(self.pid, self.pidfd)


class Origin(Protocol):
    """What a worker was made of."""

    @property
    def limits(self) -> Limits: ...

    def read(self) -> bytes:
        """The module. Raises LoadError when its copy was damaged, SupervisorClosed when it is no longer kept."""
        ...


class Worker:
    """A process that has loaded one plugin. Whoever holds its lease may use ``link``; ``end`` is for the last one.
    ``budget`` is what it may use, ``idleness`` begins whenever it has answered."""

    def __init__(self, process: WorkerProcess, link: Link, allowance: Allowance, origin: Origin) -> None:
        self.process = process
        self.link = link
        self.origin = origin
        cpu = CpuClock(process.pid).seconds
        self.budget = Budget(allowance, cpu)
        self.idleness = Idleness(cpu)
        self.started_at = time.monotonic()
        self.calls = 0
        self._is_closed = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_fit(self) -> bool:
        """Alive, and it has kept still while nobody asked it anything. For whoever may use ``link``."""
        return self.link.is_quiet() and not self.idleness.wasted_seconds

    def misdeed(self) -> str:
        """What it did while nobody asked it anything; nothing when it has kept still, or ends. As ``is_fit``."""
        if self.is_fit() or not self.process.is_alive:
            return ""
        if wasted := self.idleness.wasted_seconds:
            return f"it used {wasted:.1f} s of CPU while nobody asked it anything"
        return "it spoke while nobody asked it" if self.link.has_spoken() else ""

    @property
    def quiet_since(self) -> float:
        """The instant of its last answer, or of its start."""
        return max(self.started_at, self.idleness.since)

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
                self.link.send(Stop(), Deadline.after(grace_seconds))
            except (Gone, Breach, Silence):
                pass
            else:
                self.process.wait(grace_seconds)
        try:
            self.process.kill()
            return self.process.exit_status()
        finally:  # also when the wait is interrupted: nobody will come again
            self.link.close()
            self.process.close()
