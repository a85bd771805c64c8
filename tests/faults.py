"""Signals for a supervisor's processes at random moments: which there are, when they come, on what seed they depend.

``isoplug.supervisor.chaos`` places faults in calls, where they are the same in each run; a storm comes at any moment,
also between calls and while workers start, and so finds what nobody has thought of, and may not find it again.

``ISOPLUG_CHAOS_SECONDS`` says how long each storm lasts (by default a second or two, in the nightly run minutes), and
``ISOPLUG_CHAOS_SEED`` repeats the choice of faults of an earlier run. It repeats the choice, not the moment: the
machine decides what a process is just doing when its signal comes.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from isoplug.supervisor import Supervisor

__all__ = [
    "NIGHTLY",
    "Storm",
    "chaos_seconds",
    "new_seed",
    "templates",
    "templates_of",
    "workers",
    "workers_of",
    "zygotes",
]

_DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGTERM)
#: Longest time that a process stays stopped, when it is let go on at all.
_STOPPED_SECONDS = 0.2


def chaos_seconds(default: float) -> float:
    return float(os.environ.get("ISOPLUG_CHAOS_SECONDS", default))


#: For ``pytestmark``: a storm of minutes is not a test that hangs.
NIGHTLY = pytest.mark.timeout(300.0 + 2 * chaos_seconds(0.0))


def new_seed() -> int:
    seed = int(os.environ.get("ISOPLUG_CHAOS_SEED", random.randrange(2**32)))
    print(f"ISOPLUG_CHAOS_SEED={seed}")
    return seed


def zygotes() -> list[int]:
    """Of all supervisors of this process."""
    return [child.pid for child in psutil.Process().children() if _is_ours(child.pid)]


def templates() -> list[int]:
    """Of all zygotes of this process."""
    return _children(zygotes())


def workers() -> list[int]:
    """Of those templates; also workers that no pool knows yet."""
    return _children(templates())


def workers_of(supervisor: Supervisor, plugin_ids: Sequence[str]) -> list[int]:
    status = supervisor.status()
    return [pid for plugin_id in plugin_ids if plugin_id in status for pid in status[plugin_id].worker_pids]


def templates_of(supervisor: Supervisor, plugin_ids: Sequence[str]) -> list[int]:
    """Those that live and have a worker."""
    parents = set()
    for pid in workers_of(supervisor, plugin_ids):
        with suppress(psutil.NoSuchProcess):
            parents.add(psutil.Process(pid).ppid())
    return [pid for pid in sorted(parents) if _is_ours(pid)]


class Storm:
    """A thread that sends signals at random moments; at its end every stopped process goes on. ``parents`` are the
    zygote and the templates of the victims."""

    def __init__(
        self,
        supervisor: Supervisor,
        victims: Sequence[str],
        seed: int,
        *,
        pause_seconds: float = 0.05,
        parents: bool = True,
        stops: bool = True,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._supervisor, self._victims = supervisor, victims
        self._chance = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._kinds: list[Callable[[], None]] = [self._kill_worker] * 16
        self._kinds += [self._stop_worker, self._pause_worker, self._pause_worker] if stops else []
        self._kinds += [self._kill_zygote, self._pause_zygote] if parents else []
        self._kinds += [self._kill_template] * 2 + [self._pause_template] if parents else []
        self._is_over = threading.Event()
        self._stopped: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run, name="storm")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for _, pid in self._stopped:
            _send(pid, signal.SIGCONT)
        print(f"faults: {dict(self.faults)}")

    def _run(self) -> None:
        while not self._is_over.wait(self._chance.uniform(0.0, 2 * self._pause_seconds)):
            self._chance.choice(self._kinds)()
            now = time.monotonic()
            for until, pid in self._stopped:
                if until < now:
                    _send(pid, signal.SIGCONT)
            self._stopped = [(until, pid) for until, pid in self._stopped if until >= now]

    def _send(self, kind: str, pids: Sequence[int], number: signal.Signals) -> int | None:
        if not pids:
            return None
        pid = self._chance.choice(pids)
        if not _send(pid, number):
            return None
        self.faults[f"{kind} {number.name}"] += 1
        return pid

    def _kill_worker(self) -> None:
        self._send("worker", workers_of(self._supervisor, self._victims), self._chance.choice(_DEADLY))

    def _stop_worker(self) -> None:
        """For as long as the storm lasts: only a deadline ends it. Later there may be no call that has one so early."""
        self._pause(self._send("worker", workers_of(self._supervisor, self._victims), signal.SIGSTOP), math.inf)

    def _pause_worker(self) -> None:
        self._pause(self._send("worker", workers_of(self._supervisor, self._victims), signal.SIGSTOP), self._a_while())

    def _kill_zygote(self) -> None:
        self._send("zygote", zygotes(), signal.SIGKILL)

    def _pause_zygote(self) -> None:
        self._pause(self._send("zygote", zygotes(), signal.SIGSTOP), self._a_while())

    def _kill_template(self) -> None:
        self._send("template", templates_of(self._supervisor, self._victims), signal.SIGKILL)

    def _pause_template(self) -> None:
        self._pause(
            self._send("template", templates_of(self._supervisor, self._victims), signal.SIGSTOP), self._a_while()
        )

    def _pause(self, pid: int | None, seconds: float) -> None:
        if pid is not None:
            self._stopped.append((time.monotonic() + seconds, pid))

    def _a_while(self) -> float:
        return self._chance.uniform(0.0, _STOPPED_SECONDS)


def _is_ours(pid: int) -> bool:
    """A zygote, a template or a worker, and not another process that got the number of one that has ended."""
    try:
        return b"isoplug.worker.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _children(pids: Sequence[int]) -> list[int]:
    children = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            children += [child.pid for child in psutil.Process(pid).children()]
    return children


def _send(pid: int, number: signal.Signals) -> bool:
    if not _is_ours(pid):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
