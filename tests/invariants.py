"""What must hold whatever is done to a supervisor's processes, and a watch that checks it.

``Watch`` stands around a supervisor under fault injection. Calls go through it (``watch.call``, ``watch.command``,
``watch.attempt``), and it notes what breaks a promise:

- every call is answered exactly once, with a value or a typed error, by its deadline (plus ``ALLOWANCE_SECONDS`` for a
  busy machine);
- what was acknowledged is there (``ledger``, read back at the end from the services themselves);
- a bystander, a plugin that nobody harms, counts on in the same process and answers soon;
- the supervisor itself answers: ``status`` is asked for all the time, from a thread of its own;
- memory stays flat: resident pages over the rounds, and the number of our own objects before and after.

- no process and no file is left of what is over, also while the supervisor goes on (``leftovers``). What is left after
  its end is counted around every test by ``conftest.py``.

Nothing here injects clock jumps: isoplug measures time with the monotonic clock only, which cannot jump.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from conftest import WAIT_SECONDS
from isoplug.supervisor import PluginError, Supervisor

__all__ = [
    "ALLOWANCE_SECONDS",
    "Ledger",
    "Watch",
    "descriptors",
    "leftovers",
    "live_objects",
    "named_growth",
    "wait_until_tidy",
]

#: How much later than its deadline a call may end on a machine that has other things to do.
ALLOWANCE_SECONDS = 15.0
#: A call of the bystander, and a status, take a millisecond; seconds would mean that they waited for somebody.
SOON_SECONDS = 15.0
#: Resident memory may move by this much between two quarters of a run: arenas of the allocator, SQLite's pages.
_FLAT_BYTES = 24 << 20
#: Runs shorter than this say nothing about memory.
_MEMORY_SECONDS = 20.0


@dataclass
class Ledger:
    """What guests were told is done: key → the values that may be there now.

    An acknowledged write is the only possible value; one whose call failed may have happened or not.
    """

    possible: dict[str, set[bytes | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_become(self, key: str, value: bytes | None) -> None:
        with self._lock:
            self.possible.setdefault(key, {None}).add(value)

    def became(self, key: str, value: bytes | None) -> None:
        with self._lock:
            self.possible[key] = {value}

    def lost(self, find: Callable[[str], bytes | None]) -> list[str]:
        """The keys that hold what they cannot hold."""
        return [key for key, values in self.possible.items() if find(key) not in values]


class Watch:
    """A context manager; leaving it stops the watching and fails with everything that was noted.

    ``bystander`` is the id of a loaded ``probe`` that gets no faults and no other calls.
    """

    def __init__(self, supervisor: Supervisor, bystander: str | None = None) -> None:
        self.supervisor = supervisor
        self.answers: Counter[str] = Counter()
        self.broken: list[str] = []
        self.ledger = Ledger()
        self._bystander = bystander
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._rss: list[int] = []
        self._began = 0.0

    # --- calls ----------------------------------------------------------------------------------------------------

    def attempt(self, what: str, timeout: float, work: Callable[[], Any]) -> Any:
        """``work()``, which makes one call with this timeout. Its value, or the PluginError that it ended with."""
        began = time.monotonic()
        answer: Any
        try:
            answer = work()
            name = "answered"
        except PluginError as error:
            answer, name = error, type(error).__name__
        except BaseException as error:
            self.note(f"{what} raised {type(error).__name__}: {error}")
            raise
        took = time.monotonic() - began
        if took > timeout + ALLOWANCE_SECONDS:
            self.note(f"{what} had {timeout:g} s and took {took:.2f} s ({name})")
        with self._lock:
            self.answers[name] += 1
        return answer

    def call(self, plugin_id: str, export: str, data: bytes = b"", timeout: float = 10.0, **options: Any) -> Any:
        def work() -> bytes:
            return self.supervisor.call(plugin_id, export, data, timeout=timeout, **options)

        return self.attempt(f"call {export} of {plugin_id}", timeout, work)

    def command(self, plugin_id: str, command: str, params: Any = None, timeout: float = 10.0, **options: Any) -> Any:
        def work() -> Any:
            return self.supervisor.command(plugin_id, command, params, timeout=timeout, **options)

        return self.attempt(f"command {command} of {plugin_id}", timeout, work)

    def expect(self, is_true: bool, otherwise: str) -> None:
        if not is_true:
            self.note(otherwise)

    def note(self, broken: str) -> None:
        with self._lock:
            self.broken.append(broken)

    # --- around a run ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        loops = [self._ask_status]
        if self._bystander is not None:
            loops.append(self._ask_bystander)
        for loop in loops:
            thread = threading.Thread(target=self._guarded, args=(loop,), name=loop.__name__)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            self.check()

    def stop(self) -> None:
        """End the watching (before the supervisor is closed on purpose)."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        self._check_memory()
        print(f"answers: {dict(self.answers)}")
        assert not self.broken, f"{len(self.broken)} promises broken:\n" + "\n".join(self.broken[:40])

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:  # noqa: BLE001  an error in a thread would go unseen
            self.note(f"{loop.__name__}: {type(error).__name__}: {error}")

    def _ask_status(self) -> None:
        process = psutil.Process()
        while not self._is_over.wait(0.05):
            began = time.monotonic()
            self.supervisor.status()
            took = time.monotonic() - began
            self.expect(took < SOON_SECONDS, f"status took {took:.2f} s")
            with suppress(OSError):  # no descriptor is left for a look at ourselves
                self._rss.append(process.memory_info().rss)

    def _ask_bystander(self) -> None:
        plugin_id = self._bystander
        assert plugin_id is not None
        pids = self.supervisor.plugins[plugin_id].status.worker_pids
        count = self.supervisor.command(plugin_id, "count")
        while not self._is_over.wait(0.02):
            began = time.monotonic()
            answer = self.supervisor.command(plugin_id, "count", timeout=30.0)
            took = time.monotonic() - began
            count += 1
            self.expect(answer == count, f"the bystander counted {answer}, not {count}: it has lost its state")
            self.expect(took < SOON_SECONDS, f"the bystander took {took:.2f} s")
        now = self.supervisor.plugins[plugin_id].status.worker_pids
        self.expect(now == pids, f"the bystander's process changed from {pids} to {now}")

    def _check_memory(self) -> None:
        seconds = time.monotonic() - self._began
        if seconds < _MEMORY_SECONDS or len(self._rss) < 40:
            return
        quarter = len(self._rss) // 4
        early = statistics.median(self._rss[quarter : 2 * quarter])
        late = statistics.median(self._rss[-quarter:])
        print(f"memory: {early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB in {seconds:.0f} s")
        self.expect(
            late - early < _FLAT_BYTES, f"resident memory grew from {early / 2**20:.1f} to {late / 2**20:.1f} MiB"
        )


def leftovers(supervisor: Supervisor) -> list[str]:
    """Processes, sockets and folders that belong to no plugin of this supervisor, which rests and is the only one."""
    known = {pid for status in supervisor.status().values() for pid in status.worker_pids}
    known |= _templates_of(supervisor)
    known |= {child.pid for child in psutil.Process().children()}  # the zygote
    (runtime,) = Path(os.environ["XDG_RUNTIME_DIR"]).glob("isoplug-????????")
    strangers = [f"process {pid}" for pid in processes_of(runtime) if pid not in known]
    paths = [Path(folder, name) for folder, *names in os.walk(runtime) for name in chain(*names)]
    sockets = [str(path) for path in paths if path.is_socket() or path.name.startswith("wasi-")]
    return strangers + sockets


def _templates_of(supervisor: Supervisor) -> set[int]:
    """Also of versions that stand by and of plugins whose worker is just gone: a template outlives its workers."""
    releases = [release for plugin in supervisor.plugins.values() for release in plugin.versions.all]
    running = [release.module.template._current for release in releases]
    return {one.server.pid for one in running if one is not None and one.has_compiled}


def wait_until_tidy(supervisor: Supervisor) -> None:
    """Until there is a moment without leftovers; fails with what they are. A worker that starts is one as well."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while left := leftovers(supervisor):
        assert time.monotonic() < give_up_at, left
        time.sleep(0.01)


def processes_of(runtime: Path) -> list[int]:
    """Every zygote, template and worker with this runtime folder, whoever its parent is by now: they keep the arguments
    of the zygote that they were forked from."""
    pids = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(str(runtime) in part for part in process.cmdline()):
                pids.append(process.pid)
    return pids


def live_objects() -> Counter[str]:
    """How many instances of each class of isoplug there are."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("isoplug."))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def named_growth(bound_bytes: int) -> Iterator[None]:
    """Fails when Python's own memory grew by more than that, and names the lines that it grew in."""
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.take_snapshot()
        yield
        gc.collect()
        grown = [entry for entry in tracemalloc.take_snapshot().compare_to(before, "lineno") if entry.size_diff > 0]
    finally:
        tracemalloc.stop()
    total = sum(entry.size_diff for entry in grown)
    assert total <= bound_bytes, f"{total} bytes more than before:\n" + "\n".join(str(entry) for entry in grown[:15])
