"""What loaded plugins cost that do nothing: memory, and CPU."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import psutil

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.figures import Figure, Unit, figure_of
from isoplug.supervisor.bench.ground import Ground, lay_out
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.interpreter import fresh_interpreter

__all__ = ["main", "measure"]

_PROTECTED = "only root may look into a process that is locked down"


@dataclass(frozen=True, slots=True)
class _Host:
    """A process of its own that has loaded plugins, and nothing else."""

    process: psutil.Process
    workers: tuple[psutil.Process, ...]

    @property
    def everybody(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def measure(lab: Lab) -> Sequence[Figure]:
    figures: list[Figure] = []
    with _host(lay_out(lab.folder / "none", 0)) as empty:
        empty_bytes = empty.process.memory_full_info().uss
    for number, count in enumerate(lab.pace.crowds):
        lab.tell(number / len(lab.pace.crowds))
        plugins = f"{count} plugin{'s' if count > 1 else ''}"
        with _host(lay_out(lab.folder / str(count), count)) as host:
            figures += _memory(lab, host, plugins)
            grown_bytes = host.process.memory_full_info().uss - empty_bytes
            name = f"supervisor's memory per plugin, {plugins}"
            figures.append(figure_of(lab.section, name, Unit.BYTES, [grown_bytes / count]))
            if count == lab.pace.crowds[-1]:
                used = _cores_used(host, lab.pace.idle_seconds)
                name = f"CPU of all processes, {count} idle plugins"
                figures.append(figure_of(lab.section, name, Unit.CORES, [used]))
    return figures


def _memory(lab: Lab, host: _Host, plugins: str) -> Iterator[Figure]:
    templates = {worker.ppid() for worker in host.workers}
    for who, processes in (("worker", host.workers), ("template", tuple(map(psutil.Process, templates)))):
        private, share = f"a {who}'s private memory, {plugins}", f"a {who}'s share of all memory, {plugins}"
        try:
            infos = [process.memory_full_info() for process in processes]
        except psutil.AccessDenied:
            lab.missing[private] = lab.missing[share] = _PROTECTED
            continue
        yield figure_of(lab.section, private, Unit.BYTES, [info.uss for info in infos])
        yield figure_of(lab.section, share, Unit.BYTES, [info.pss for info in infos])


def _cores_used(host: _Host, seconds: float) -> float:
    """CPU of all its processes."""
    pids = [process.pid for process in host.everybody]
    before, begin = _cpu_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    return (_cpu_seconds(pids) - before) / (time.perf_counter() - begin)


def _cpu_seconds(pids: Sequence[int]) -> float:
    """By their CPU clocks (clock_getcpuclockid(3)), in nanoseconds, where /proc has hundredths."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@contextmanager
def _host(ground: Ground) -> Iterator[_Host]:
    command = fresh_interpreter(__name__, {"folder": str(ground.folder)})
    # In a session of its own, so that Ctrl-C is for this process alone. It ends when its standard input does.
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, encoding="ascii", start_new_session=True) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said:
                raise SetupError(f"the process that was to load plugins in {ground.folder} ended instead")
            yield _Host(psutil.Process(process.pid), tuple(psutil.Process(pid) for pid in json.loads(said)))
            process.communicate()
        except BaseException:
            process.kill()  # it may be loading for a while yet; everything below it ends with it
            raise


def main(folder: str) -> None:
    """Load what is in ``folder``, say which processes the workers are, and wait."""
    with Ground(Path(folder)).supervisor() as supervisor:
        pids = [pid for plugin in supervisor.plugins.values() for pid in plugin.status.worker_pids]
        gc.collect()
        print(json.dumps(pids), flush=True)
        sys.stdin.read()
