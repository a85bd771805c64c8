"""How a worker's process ended, and what explains it. Rules without I/O.

Of CPU time used up speaks SIGXCPU, or SIGKILL a second later when the process took no notice (setrlimit(2)).

Out of memory is said only on evidence: the process's own last words name an allocation that failed, or the kernel has
ended processes for want of memory while this one ran and nobody here sent the SIGKILL that it died of. A peak near the
limit is told, and decides nothing: resident memory is not what the limit counts.
"""

from __future__ import annotations

import math
import os
import re
import signal as _signal
from typing import NamedTuple

from isoplug.shared.errors import CrashReason, WorkerCrashed, WorkerLimitExceeded
from isoplug.shared.limits import clip

__all__ = ["ExitStatus", "readable"]

#: What Rust, C++, CPython and libzmq say when memory runs out.
_FAILED_ALLOCATION = re.compile(
    r"memory allocation of \d+ bytes failed|std::bad_alloc|^MemoryError\b|FATAL ERROR: OUT OF MEMORY"
    r"|Cannot allocate memory",
    re.MULTILINE,
)
#: The folders of an absolute path: guests hear of a death in another plugin, and those are not for them.
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+")
#: The line that Rust adds to whatever it says.
_RUSTS_NOTE = "note: run with `RUST_BACKTRACE="
#: Of the last words, in a sentence.
_WORDS_BYTES = 300
_MIB = 1 << 20

_VERDICTS = {CrashReason.OUT_OF_MEMORY: ": out of memory", CrashReason.CPU_TIME: ": out of CPU time"}


class ExitStatus(NamedTuple):
    """At most one of ``signal`` and ``exit_code`` is set; none when nobody can tell.

    ``peak_bytes`` is the most memory that was resident, ``memory_limit_bytes`` is limits.process_memory,
    ``cpu_limit_seconds`` is limits.cpu_total, or 0 when there is none, ``last_words`` is its standard error: text of a
    process that is not trusted. ``oom_kills`` counts those by the kernel while it ran, ``was_killed`` says that the
    supervisor sent it SIGKILL.
    """

    signal: int | None = None
    exit_code: int | None = None
    peak_bytes: int | None = None
    cpu_seconds: float | None = None
    memory_limit_bytes: int | None = None
    cpu_limit_seconds: int = 0
    last_words: str = ""
    oom_kills: int = 0
    was_killed: bool = False

    def with_wait_status(self, status: int) -> ExitStatus:
        if os.WIFSIGNALED(status):
            return self._replace(signal=os.WTERMSIG(status))
        return self._replace(exit_code=os.WEXITSTATUS(status))

    def __str__(self) -> str:
        return WorkerCrashed.describe(self.signal, self.exit_code)

    @property
    def is_out_of_memory(self) -> bool:
        return self._was_ended_by_kernel or _FAILED_ALLOCATION.search(self.last_words) is not None

    @property
    def is_out_of_cpu_time(self) -> bool:
        if not self.cpu_limit_seconds:
            return False
        has_used_it = (self.cpu_seconds or 0.0) >= self.cpu_limit_seconds
        return self.signal == _signal.SIGXCPU or (
            self.signal == _signal.SIGKILL and has_used_it and not self.was_killed
        )

    @property
    def reason(self) -> CrashReason:
        if self.is_out_of_memory:
            return CrashReason.OUT_OF_MEMORY
        if self.is_out_of_cpu_time:
            return CrashReason.CPU_TIME
        if self.signal is not None:
            return CrashReason.SIGNAL
        return CrashReason.UNKNOWN if self.exit_code is None else CrashReason.EXIT

    @property
    def evidence(self) -> str:
        """What is known beside the status, in one line for people; empty when nothing is."""
        facts = []
        if self.last_words:
            lines = (line for line in self.last_words.splitlines() if not line.startswith(_RUSTS_NOTE))
            facts.append(clip(" / ".join(lines), _WORDS_BYTES))
        if self._was_ended_by_kernel:
            facts.append("the kernel has ended processes for want of memory meanwhile")
        if self.peak_bytes is not None:
            facts.append(self._peak(self.peak_bytes))
        if self.cpu_seconds is not None:
            bound = f", limits.cpu_total is {self.cpu_limit_seconds} s" if self.is_out_of_cpu_time else ""
            facts.append(f"{self.cpu_seconds:.1f} s of CPU{bound}")
        return "; ".join(facts)

    def describe(self, when: str = "") -> str:
        """``killed by SIGABRT during command 'x': out of memory (peak 498 MiB, ...)``."""
        verdict = _VERDICTS.get(self.reason, "")
        evidence = f" ({self.evidence})" if self.evidence else ""
        return f"{self} {when}".rstrip() + verdict + evidence

    def crash(self, plugin_id: str, when: str = "") -> WorkerCrashed:
        """The error for whoever waited for this process."""
        cause = self.describe(when)
        exceeded = self._exceeded()
        if exceeded is None:
            return WorkerCrashed(
                plugin_id,
                cause,
                reason=self.reason,
                signal=self.signal,
                exit_code=self.exit_code,
                evidence=self.evidence,
            )
        key, limit, figure, bound = exceeded
        return WorkerLimitExceeded(
            plugin_id,
            cause,
            reason=self.reason,
            limit=limit,
            key=key,
            figure=figure,
            bound=bound,
            signal=self.signal,
            exit_code=self.exit_code,
            evidence=self.evidence,
        )

    def _exceeded(self) -> tuple[str, str, int | None, int] | None:
        """The limit of ours that it died of: its key, what it bounds, what that came to, and the bound."""
        if self.is_out_of_cpu_time:
            seconds = None if self.cpu_seconds is None else math.ceil(self.cpu_seconds)
            return "limits.cpu_total", "the CPU time of the worker in seconds", seconds, self.cpu_limit_seconds
        if self.is_out_of_memory and not self._was_ended_by_kernel and self.memory_limit_bytes is not None:
            memory = "the memory of the process in bytes"
            return "limits.process_memory", memory, self.peak_bytes, self.memory_limit_bytes
        return None

    @property
    def _was_ended_by_kernel(self) -> bool:
        return self.signal == _signal.SIGKILL and self.oom_kills > 0 and not self.was_killed

    def _peak(self, peak_bytes: int) -> str:
        peak = f"peak {peak_bytes // _MIB} MiB"
        if self.memory_limit_bytes is None:
            return peak
        return f"{peak}, limits.process_memory is {self.memory_limit_bytes // _MIB} MiB"


def readable(last_words: bytes) -> str:
    """Text without control characters and without the folders of this machine."""
    text = _FOLDERS.sub("", last_words.decode("utf-8", "replace")).strip()
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
