"""One run from beginning to end: wait for a turn, fill the folder, start the process, listen to it, collect, clean up.

Whoever calls ``run`` does all of it in its own thread. There is one wait, on everything that can happen: the process
writes or ends, the worker that asked ends, the deadline passes, the folder is due to be measured.
"""

from __future__ import annotations

import math
import os
import re
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from isoplug.shared.errors import ServiceError, SupervisorClosed
from isoplug.shared.lockdown import Lockdown
from isoplug.shared.wasi import Order, Verdict, VerdictKind
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.files import reason
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.wasi.process import WasiProcess
from isoplug.supervisor.wasi.program import Outcome, Program, WasiLimits
from isoplug.supervisor.wasi.scratch import Scratch

__all__ = ["WasiRunner"]

#: What the interpreter and the runtime need beside the program's memory. Measured: 44 MiB.
_RUNTIME_BYTES: Final = 64 << 20
#: How often the program's folder is measured, and how many times the measuring itself has to pass in between: what a
#: program writes faster than that is beyond the bound.
_MEASURE_SECONDS: Final = 0.05
_MEASURE_SHARE: Final = 10
#: How often a run that waits for its turn looks whether anybody still waits for it.
_TURN_SECONDS: Final = 0.05
#: Of a trapped program's standard error; there is no other place for it in the answer.
_LAST_WORDS_BYTES: Final = 2_000
_NO_DESCRIPTOR: Final = "close some descriptors of the host, or raise `ulimit -n`"
_CODE: Final = re.compile(r"-?\d{1,10}", re.ASCII)


class WasiRunner:
    """Thread-safe; one a supervisor. ``folder`` is where the folders of the runs are made: nobody else may enter it,
    and whoever owns it removes what is left there when this process is killed."""

    def __init__(self, folder: Path, limits: WasiLimits, lockdown: Lockdown = Lockdown.BEST_EFFORT) -> None:
        self._folder = folder
        self._limits = limits
        self._lockdown = lockdown
        self._turns = threading.BoundedSemaphore(limits.runs)
        self._lock = threading.Lock()
        self._lifeline: Lifeline | None = None
        self._is_closed = False

    def run(self, caller: Caller, program: Program) -> Outcome:
        """Returns when the program has ended, whatever its exit code.

        Raises:
            ServiceError: the module cannot be run, the program trapped, its process could not be started or died, the
                deadline has passed, the worker that asked has ended.
            ResourceLimitExceeded: it wrote more than it may.
            SupervisorClosed.
        """
        worker_fd = _watch(caller)
        try:
            with self._turn(caller, worker_fd), Scratch(self._folder) as scratch:
                scratch.fill(program.files, caller.deadline)
                with self._start(caller, program, scratch) as process:
                    self._attend(caller, worker_fd, process, scratch)
                    exit_code = _exit_code(process)
                    stdout, stderr = process.stdout.content, process.stderr.content
                return Outcome(exit_code, stdout, stderr, scratch.collect(program.outputs, self._limits.answer_bytes))
        finally:
            os.close(worker_fd)

    def close(self) -> None:
        """Start nothing more, and end what still runs: its lifeline closes. Idempotent."""
        with self._lock:
            self._is_closed = True
            self.let_go()

    def let_go(self) -> None:
        """Close the lifeline: in ``close``, or in a fork of the host, which must not keep processes of its parent
        alive."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.cut()
            lifeline.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, caller: Caller, worker_fd: int) -> Iterator[None]:
        """One of the places for runs. Raises ServiceError when nobody waits any more before one is free."""
        while not self._turns.acquire(timeout=min(_TURN_SECONDS, caller.deadline.remaining_seconds())):
            if caller.deadline.has_passed:
                raise ServiceError(f"{self._limits.runs} other programs run already; see wasi.runs")
            if _is_readable(worker_fd):
                raise ServiceError("the plugin's worker has ended")
        try:
            yield
        finally:
            self._turns.release()

    def _start(self, caller: Caller, program: Program, scratch: Scratch) -> WasiProcess:
        limits = self._limits
        # More than the deadline allows, even when every core compiles: it is for a supervisor that has been stopped
        # and so cannot kill.
        cpu_seconds = 2 + math.ceil(caller.deadline.remaining_seconds()) * (os.cpu_count() or 1)
        order = Order(
            module=program.module,
            arguments=list(program.arguments),
            folder=str(scratch.path),
            program_memory_bytes=limits.memory_bytes,
            process_memory_bytes=limits.memory_bytes + _RUNTIME_BYTES,
            file_bytes=limits.scratch_bytes,
            cpu_seconds=cpu_seconds,
            lockdown=self._lockdown,
        )
        with self._lock:
            if self._is_closed:
                raise SupervisorClosed(caller.plugin_id)
            if self._lifeline is None:
                self._lifeline = _lifeline()
            return WasiProcess(order, program.stdin, self._lifeline, limits.output_bytes)

    def _attend(self, caller: Caller, worker_fd: int, process: WasiProcess, scratch: Scratch) -> None:
        """Until the process has ended and everything it wrote has been read."""
        poll = select.poll()
        for fd in (worker_fd, process.pidfd, *(capture.fd for capture in process.captures)):
            poll.register(fd, select.POLLIN)
        measure_at = 0.0
        while True:
            patience_ms = min(caller.deadline.remaining_ms(), int(max(0.0, measure_at - time.monotonic()) * 1000) + 1)
            ready = {fd for fd, _ in poll.poll(patience_ms)}
            for capture in process.captures:
                if capture.fd in ready:
                    capture.read()
                    if not capture.is_open:
                        poll.unregister(capture.fd)
            if process.pidfd in ready:
                break
            if worker_fd in ready:
                raise ServiceError("the plugin's worker has ended")
            if caller.deadline.has_passed:
                raise ServiceError("the program did not end within the time that was left")
            if time.monotonic() >= measure_at:
                measure_at = self._measure(process, scratch)
        for capture in process.captures:
            while capture.is_open and capture.read():
                pass

    def _measure(self, process: WasiProcess, scratch: Scratch) -> float:
        """Raises ResourceLimitExceeded. Returns when to measure again."""
        begin = time.monotonic()
        scratch.require_bounds(process.pid, self._limits.scratch_bytes)
        end = time.monotonic()
        return end + max(_MEASURE_SECONDS, _MEASURE_SHARE * (end - begin))


def _watch(caller: Caller) -> int:
    try:
        return caller.watch()
    except OSError as error:
        raise ServiceError(f"cannot start a program: {reason(error)}; {_NO_DESCRIPTOR}") from error


def _lifeline() -> Lifeline:
    try:
        return Lifeline()
    except OSError as error:
        raise ServiceError(f"cannot start a program: {reason(error)}; {_NO_DESCRIPTOR}") from error


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _exit_code(process: WasiProcess) -> int:
    """Of a program that has ended; every other verdict is an error for the plugin."""
    match process.verdict():
        case Verdict(VerdictKind.EXITED, text) if _CODE.fullmatch(text):
            return int(text)
        case Verdict(VerdictKind.TRAPPED, text):
            last_words = process.stderr.content[-_LAST_WORDS_BYTES:].decode("utf-8", "replace")
            tail = f"\nits standard error: {last_words}" if last_words else ""
            raise ServiceError(f"the program trapped: {text}{tail}")
        case Verdict(VerdictKind.REFUSED, text):
            raise ServiceError(f"the module cannot be run: {text}")
        case Verdict(VerdictKind.UNPROTECTED, gaps):
            raise ServiceError(
                f'lockdown = "full", and this machine cannot give the program all of it ({gaps}); its host may run '
                "`isoplug doctor`"
            )
        case Verdict(VerdictKind.MISSING, _):
            raise ServiceError("this host cannot run WASI programs; the host needs: pip install 'isoplug[wasi]'")
        case _:
            raise ServiceError("the program's process said something that is no result")
