"""What one worker may use, and what it has used of that. Rules without I/O: clocks are handed in.

Host calls, log lines and CPU time are counted here, where the worker cannot lie about them. Counting costs every host
call a tenth of a microsecond; what costs more is done for plugins that have the limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from isoplug.shared.limits import WorkerLimits
from isoplug.supervisor import config

__all__ = ["Allowance", "Budget", "Exceeded", "Idleness", "worker_limits"]

_LOG = "host_log"

#: How long the supervisor waits for a worker at least before it looks at its CPU time again.
_LEAST_WAIT_SECONDS = 0.01

#: CPU time of a worker that nobody has asked anything: what its threads may take to come to rest after a call
#: (measured: 0.03 ms after 20 MiB), and the share of the time afterwards (measured: nothing in 20 s).
_SETTLING_SECONDS = 0.1
_RESTING_SHARE = 0.001


class Exceeded(Exception):
    """A worker went beyond a limit. ``key`` is that of the configuration; ``figure`` is None when nobody knows it."""

    def __init__(self, key: str, what: str, figure: int | None, bound: int) -> None:
        super().__init__(key)
        self.key, self.what, self.figure, self.bound = key, what, figure, bound


class Allowance(NamedTuple):
    """``config.Limits`` says what they mean. 0: no bound."""

    output_bytes: int
    frame_bytes: int
    wasm_memory_bytes: int
    process_memory_bytes: int
    cpu_per_call_seconds: float
    host_calls_per_call: int
    host_calls_per_second: int
    log_lines_per_second: int

    @classmethod
    def of(cls, limits: config.Limits) -> Allowance:
        return cls(
            output_bytes=min(limits.output, limits.frame),
            frame_bytes=limits.frame,
            wasm_memory_bytes=limits.wasm_memory,
            process_memory_bytes=limits.process_memory,
            cpu_per_call_seconds=limits.cpu_per_call,
            host_calls_per_call=limits.host_calls_per_call,
            host_calls_per_second=limits.host_calls_per_second,
            log_lines_per_second=limits.log_lines_per_second,
        )


def worker_limits(limits: config.Limits) -> WorkerLimits:
    """What the process keeps itself, with the kernel's help; the rest is ``Allowance``."""
    return WorkerLimits(
        wasm_memory_bytes=limits.wasm_memory,
        process_memory_bytes=limits.process_memory,
        open_files=limits.open_files,
        frame_bytes=limits.frame,
        cpu_seconds=math.ceil(limits.cpu_total),  # the kernel counts whole seconds
        processes=limits.processes,
    )


#: What they are of, and where the bound stands.
_KEPT_BY_WORKERS = {
    "limits.output": ("the size of the output in bytes", "output_bytes"),
    "limits.frame": ("the size of the input of a host function in bytes", "frame_bytes"),
    "limits.wasm_memory": ("the memory of the guest in bytes", "wasm_memory_bytes"),
    "limits.process_memory": ("the memory of the worker in bytes", "process_memory_bytes"),
}


class _Rate:
    """At most ``bound`` in one second, which begins with the first one after the second before."""

    __slots__ = ("_begun_at", "_bound", "_count", "_key", "_what")

    def __init__(self, key: str, what: str, bound: int) -> None:
        self._key, self._what, self._bound = key, what, bound
        self._begun_at = -math.inf
        self._count = 0

    def count(self, now: float) -> None:
        """Raises Exceeded."""
        if now - self._begun_at >= 1.0:
            self._begun_at, self._count = now, 0
        self._count += 1
        if self._count > self._bound:
            raise Exceeded(self._key, self._what, self._count, self._bound)


class Budget:
    """Of one worker, which serves one call after the other. ``cpu`` reads its CPU clock. Rates go on from one call to
    the next. Methods raise Exceeded."""

    __slots__ = ("_allowance", "_calls_rate", "_cpu", "_cpu_before", "_host_calls", "_log_rate", "_most_calls", "_now")

    def __init__(
        self, allowance: Allowance, cpu: Callable[[], float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._allowance = allowance
        self._cpu, self._now = cpu, now
        self._cpu_before = 0.0
        self._host_calls = 0
        self._most_calls = allowance.host_calls_per_call or math.inf
        per_second, lines = allowance.host_calls_per_second, allowance.log_lines_per_second
        self._calls_rate = (
            _Rate("limits.host_calls_per_second", "the number of host calls in one second", per_second)
            if per_second
            else None
        )
        self._log_rate = (
            _Rate("limits.log_lines_per_second", "the number of lines logged in one second", lines) if lines else None
        )

    def begin(self) -> Callable[[], float] | None:
        """A call begins. Returns what is to be asked before each wait for the worker, or None: how many seconds that
        may last."""
        self._host_calls = 0
        if not self._allowance.cpu_per_call_seconds:
            return None
        self._cpu_before = self._cpu()
        return self.patience

    def patience(self) -> float:
        """How long it may take until the call has used up its CPU time."""
        allowed = self._allowance.cpu_per_call_seconds
        used = self._cpu() - self._cpu_before
        if used > allowed:
            raise Exceeded(
                "limits.cpu_per_call",
                "the CPU time of the call in milliseconds",
                math.ceil(used * 1000),
                round(allowed * 1000),
            )
        return max(_LEAST_WAIT_SECONDS, allowed - used)

    def host_call(self, function: str) -> None:
        """The guest calls ``function``."""
        self._host_calls = number = self._host_calls + 1
        if number > self._most_calls:
            raise Exceeded(
                "limits.host_calls_per_call",
                "the number of host calls of the call",
                number,
                self._allowance.host_calls_per_call,
            )
        if self._calls_rate is not None:
            self._calls_rate.count(self._now())
        if self._log_rate is not None and function == _LOG:
            self._log_rate.count(self._now())

    def output(self, size: int) -> None:
        """The guest answers with so many bytes."""
        if size > self._allowance.output_bytes:
            raise self.told("limits.output", size)

    def told(self, key: str, figure: int) -> Exceeded:
        """The worker says that its guest came to this limit. Raises KeyError for one that workers do not keep."""
        what, field = _KEPT_BY_WORKERS[key]
        bound: int = getattr(self._allowance, field)
        return Exceeded(key, what, figure if figure > bound else None, bound)


class Idleness:
    """A worker that nobody asks anything has nothing to compute. ``cpu`` reads its CPU clock."""

    __slots__ = ("_cpu", "_cpu_before", "_now", "since")

    def __init__(self, cpu: Callable[[], float], now: Callable[[], float] = time.monotonic) -> None:
        self._cpu, self._now = cpu, now
        #: The instant of its last answer.
        self.since = -math.inf  # it has not answered yet, so anything can be explained
        self._cpu_before = 0.0

    def begin(self) -> None:
        """It has answered."""
        self.since, self._cpu_before = self._now(), self._cpu()

    @property
    def wasted_seconds(self) -> float:
        """The CPU time that it has used since; 0 while that can be explained."""
        used = self._cpu() - self._cpu_before
        if used <= _SETTLING_SECONDS:  # on the path of every call
            return 0.0
        explained = _SETTLING_SECONDS + _RESTING_SHARE * (self._now() - self.since)
        return used if used > explained else 0.0
