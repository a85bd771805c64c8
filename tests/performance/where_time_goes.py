"""What a call costs its caller's thread, step by step. Not a test: run it by hand.

    taskset -c 0 python tests/performance/where_time_goes.py [--host-calls 1] [--calls 5000] [--json]

Around each step's function stands a reading of a clock. A step's figure is what it took, less what the steps inside it
took. The lower quartile of all calls counts, because the rest is other programs' doing. On one core, so that caller and
worker share its caches. The readings add to what they read: the last line has the sum, and what a call takes without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from isoplug.supervisor import Supervisor
from isoplug.supervisor.bench.ground import PAYLOAD, ask, lay_out, plugin_id
from isoplug.supervisor.calls.gate import Gate
from isoplug.supervisor.calls.host_calls import HostCalls
from isoplug.supervisor.pool import Lease, Pool
from isoplug.supervisor.pool.budget import Idleness
from isoplug.supervisor.pool.link import Link
from isoplug.supervisor.pool.worker import Worker

#: Label, and the functions that are this step.
STEPS: tuple[tuple[str, tuple[tuple[type, str], ...]], ...] = (
    ("check what the caller asks for, make the deadline", ((Supervisor, "call_options"),)),
    ("in and out of the gate", ((Gate, "let_in"), (Gate, "let_out"))),
    ("borrow a worker", ((Pool, "acquire"),)),
    ("has it kept still while it was idle", ((Worker, "is_fit"),)),
    ("encode messages", ((Link, "send"),)),
    ("take in messages, decode and check them", ((Link, "receive"),)),
    ("serve a host call", ((HostCalls, "__call__"),)),
    ("note when it became idle", ((Idleness, "begin"),)),
    ("give the worker back", ((Lease, "release"),)),
)
REST = "everything between these"


class Step:
    def __init__(self) -> None:
        self.times = 0
        self.ns = 0  # of the call under way
        self.samples: list[int] = []  # one of each call

    def us(self) -> float:
        return statistics.quantiles(self.samples, n=4)[0] / 1000


class Stopwatch:
    """Readings may stand within each other: each counts without those inside it.

    Of a step that waits, the thread's CPU clock is read; of others the monotonic clock, which takes no system call.
    """

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._inside_ns = 0  # what the readings within the current one took, of those that have ended

    def around(self, label: str, function: Callable[..., Any], *, waits: bool = False) -> Callable[..., Any]:
        step = self.steps.setdefault(label, Step())
        clock, cpu = time.perf_counter_ns, time.thread_time_ns if waits else time.perf_counter_ns

        def read(*arguments: Any, **options: Any) -> Any:
            before, self._inside_ns = self._inside_ns, 0
            begin, cpu_begin = clock(), cpu()
            try:
                return function(*arguments, **options)
            finally:
                step.ns += cpu() - cpu_begin - self._inside_ns
                step.times += 1
                self._inside_ns = before + clock() - begin

        return read

    def end_call(self) -> None:
        for step in self.steps.values():
            step.samples.append(step.ns)
            step.ns = 0


class SystemCalls:
    """A socket or a poll object, each of whose methods is a step."""

    def __init__(self, wrapped: Any, stopwatch: Stopwatch) -> None:
        self._wrapped, self._stopwatch = wrapped, stopwatch

    def __getattr__(self, name: str) -> Any:
        method = self._stopwatch.around(f"system call: {name}", getattr(self._wrapped, name), waits=True)
        setattr(self, name, method)
        return method


def stopped_at_each_step(supervisor: Supervisor, stopwatch: Stopwatch) -> ExitStack:
    undo = ExitStack()
    for label, functions in STEPS:
        for owner, name in functions:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, stopwatch.around(label, getattr(owner, name)))
    (member,) = supervisor.plugins[plugin_id(0)].pool._crew.members
    link: Any = member.worker.link
    for name in ("_socket", "_poll"):
        undo.callback(setattr, link, name, getattr(link, name))
        setattr(link, name, SystemCalls(getattr(link, name), stopwatch))
    return undo


def measured(supervisor: Supervisor, call: Callable[[], object], calls: int) -> tuple[Step, Stopwatch]:
    """A whole call without readings; its steps."""
    plain, stopwatch, block = Step(), Stopwatch(), 100
    for _ in range(calls // block):
        for _ in range(block):
            begin = time.thread_time_ns()
            call()
            plain.samples.append(time.thread_time_ns() - begin)
        with stopped_at_each_step(supervisor, stopwatch):
            timed = stopwatch.around(REST, call)
            for _ in range(block):
                timed()
                stopwatch.end_call()
    return plain, stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call costs its caller's thread, step by step.")
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--host-calls", type=int, default=0, help="that each call makes")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    asked = ask("host_file_exists", chosen.host_calls, {"path": "a.md"})
    export, payload = ("ask", asked) if chosen.host_calls else ("echo", PAYLOAD)
    with tempfile.TemporaryDirectory() as folder, lay_out(Path(folder) / "ground").supervisor() as supervisor:
        plain, stopwatch = measured(supervisor, lambda: supervisor.call(plugin_id(0), export, payload), chosen.calls)
    steps = {label: step for label, step in stopwatch.steps.items() if step.times}
    if chosen.json:
        figures = {label: {"times": step.times / chosen.calls, "us": step.us()} for label, step in steps.items()}
        print(json.dumps({"us": plain.us(), "steps": figures}))
        return
    for label, step in sorted(steps.items(), key=lambda item: -item[1].us()):
        print(f"{label:50} {step.times / chosen.calls:5.1f} times {step.us():7.2f} us")
    print(f"{'sum; a call without readings':50} {sum(s.us() for s in steps.values()):19.2f} {plain.us():7.2f} us")


if __name__ == "__main__":
    main()
