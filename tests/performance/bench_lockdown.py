"""What locking workers down costs, side by side, in one run. Not a test: run it by hand.

    python tests/performance/bench_lockdown.py [--rounds 30] [--json]

Two supervisors over the same plugin, one with ``lockdown = "off"`` and one with everything that this machine offers
(``best-effort``), take turns, and medians are compared. A start is a load, with its template and its compiling; a
restart is from kill -9 to the next answer, which a template that is there serves. Memory is what a process has to
itself; only root may look at that of a locked one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from guests import guest
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import AllowAll, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Restart

PROBE = "test.probe"
PAYLOAD = b"x" * 100
HOST_CALL = b'{"function":"host_file_exists","input":"{\\"path\\":\\"a.md\\"}"}'
CALLS = 100
PATIENT = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)


class Candidate:
    def __init__(self, folder: Path, mode: Lockdown) -> None:
        self.folder, self.mode = folder, mode
        self.supervisor = self.open()

    def open(self) -> Supervisor:
        config = Config(lockdown=self.mode, restart=PATIENT)
        state = self.folder / f"state-{self.mode}"
        places = {"plugins_dir": self.folder / "plugins", "workspace": self.folder / "journal", "state_dir": state}
        return Supervisor(config=config, permissions=AllowAll(), **places)

    def start(self) -> float:
        begin = time.perf_counter()
        plugin = self.supervisor.load_plugin(self.folder / "plugins" / "probe" / "plugin.wasm")
        passed = time.perf_counter() - begin
        self.supervisor.unload(plugin.id)
        return passed * 1000

    def restart(self) -> float:
        (pid,) = self.supervisor.plugins[PROBE].status.worker_pids
        begin = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                self.supervisor.call(PROBE, "echo", PAYLOAD)
            except WorkerCrashed:  # the signal had not arrived yet
                continue
            if self.supervisor.plugins[PROBE].status.worker_pids != (pid,):
                return (time.perf_counter() - begin) * 1000

    def calls(self, export: str, data: bytes) -> float:
        begin = time.perf_counter()
        for _ in range(CALLS):
            self.supervisor.call(PROBE, export, data)
        return (time.perf_counter() - begin) / CALLS * 1e6

    def private_kib(self) -> dict[str, float]:
        (pid,) = self.supervisor.plugins[PROBE].status.worker_pids
        worker = psutil.Process(pid)
        return {"worker": _private_kib(worker), "template": _private_kib(psutil.Process(worker.ppid()))}


def _private_kib(process: psutil.Process) -> float:
    memory = process.memory_full_info()
    return memory.uss / 1024


def interleaved(rounds: int, candidates: dict[str, Candidate], do: Callable[[Candidate], float]) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            samples[name].append(do(candidate))
    return {name: statistics.median(times) for name, times in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="isoplug-bench-")))
        (folder / "plugins" / "probe").mkdir(parents=True)
        (folder / "journal").mkdir()
        wasm = guest("probe", folder / "guests").read_bytes()
        (folder / "plugins" / "probe" / "plugin.wasm").write_bytes(wasm)
        candidates = {
            "off": Candidate(folder, Lockdown.OFF),
            "locked": Candidate(folder, Lockdown.BEST_EFFORT),
        }
        for candidate in candidates.values():
            cleanup.callback(candidate.supervisor.close)
        protection = candidates["locked"].supervisor.protection
        measured = {
            "restart, ms": interleaved(options.rounds, candidates, Candidate.restart),
            "call, µs": interleaved(options.rounds, candidates, lambda one: one.calls("echo", PAYLOAD)),
            "call with one host call, µs": interleaved(
                options.rounds, candidates, lambda one: one.calls("host", HOST_CALL)
            ),
        }
        if os.geteuid() == 0:
            private = {name: candidate.private_kib() for name, candidate in candidates.items()}
            for process in ("worker", "template"):
                measured[f"private memory of a {process}, KiB"] = {name: private[name][process] for name in private}
        for candidate in candidates.values():
            candidate.supervisor.unload(PROBE)
        measured["start, ms"] = interleaved(options.rounds, candidates, Candidate.start)
    if options.json:
        print(json.dumps(measured, indent=2, ensure_ascii=False))
        return
    if protection is not None and protection.missing:
        print(f"not applied here: {', '.join(protection.missing)}")
    print(f"{'':36}{'off':>9}{'locked':>9}{'difference':>12}")
    for name, by_mode in measured.items():
        print(f"{name:36}{by_mode['off']:9.1f}{by_mode['locked']:9.1f}{by_mode['locked'] - by_mode['off']:12.1f}")


if __name__ == "__main__":
    main()
