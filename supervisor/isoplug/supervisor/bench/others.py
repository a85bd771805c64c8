"""Pools of processes that one could use instead, doing the same echo. The only module that imports ``pebble``, ``loky``
and ``ray``; what is not installed is not measured.

They isolate less: their workers can do whatever this process can.
"""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context, resource_tracker
from typing import Any, Final

from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.private_folder import PrivateFolder

__all__ = ["POOLS", "Pool", "ProcessPool", "RayActor", "advice"]

_TIMEOUT_SECONDS: Final = 60.0


def echo(data: bytes) -> bytes:
    return data


def own_pid() -> int:
    return os.getpid()


class Pool(ABC):
    """One worker process. Use it as a context manager."""

    name: Name
    package: str | None = None  #: None: part of Python
    extra = "bench"

    @classmethod
    def is_installed(cls) -> bool:
        return cls.package is None or find_spec(cls.package) is not None

    @abstractmethod
    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """In the worker."""

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def reopen(self) -> None:
        """What it needs after a call that failed because the worker was killed."""
        self.close()
        self.open()

    def recovery_seconds(self) -> float:
        """From ``kill -9`` of its worker to the next answer."""
        killed = self.pid()
        begin = time.perf_counter()
        os.kill(killed, signal.SIGKILL)
        while True:
            try:
                answered_by, answered_at = self.pid(), time.perf_counter()
                if answered_by != killed:  # the signal had arrived
                    return answered_at - begin
            except (
                RuntimeError,
                OSError,
            ):  # a broken executor is the former, a worker of pebble's that died the latter
                with _deaf_children():
                    self.reopen()

    def echo(self, data: bytes) -> bytes:
        answer: bytes = self.run(echo, data)
        return answer

    def pid(self) -> int:
        pid: int = self.run(own_pid)
        return pid

    def __enter__(self) -> Pool:
        with _deaf_children():
            self.open()
            self.pid()  # it is there
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProcessPool(Pool):
    """Python's own."""

    name = Name.PROCESS_POOL

    _executor: Executor

    def open(self) -> None:
        self._executor = ProcessPoolExecutor(1, get_context("spawn"))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments).result(_TIMEOUT_SECONDS)

    def close(self) -> None:
        self._executor.shutdown()


class Loky(ProcessPool):
    """Its reusable executor is made anew when it is broken."""

    name = Name.LOKY
    package = "loky"

    def open(self) -> None:
        import loky

        self._executor = loky.get_reusable_executor(max_workers=1, timeout=None)

    def reopen(self) -> None:
        self.open()


class Pebble(Pool):
    """It replaces a worker that dies of a task; one that is killed between two breaks it."""

    name = Name.PEBBLE
    package = "pebble"

    def open(self) -> None:
        import pebble

        self._pool: Any = pebble.ProcessPool(max_workers=1, context=get_context("spawn"), initializer=_ends_silently)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.schedule(function, args=list(arguments)).result(_TIMEOUT_SECONDS)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


class RayActor(Pool):
    """An actor in a cluster of this machine alone."""

    name = Name.RAY
    package = "ray"
    extra = "ray"

    def open(self) -> None:
        import ray

        # Of its own, because Ray leaves its logs; directly in the temporary folder, because of how long the name of a
        # socket may be.
        self._folder = PrivateFolder.make("isoplug-ray-")
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(self._folder.path),
        )
        self._ray = ray
        self._actor = ray.remote(_Actor).options(num_cpus=0).remote()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._ray.get(self._actor.run.remote(function, *arguments), timeout=_TIMEOUT_SECONDS)

    def close(self) -> None:
        self._ray.shutdown()
        self._folder.close()


class _Actor:
    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _ends_silently() -> None:
    """In a worker of pebble's: it gets SIGTERM while it is ending by itself, and Python would complain that it came too
    late for a handler."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


#: Those whose worker can be killed; an actor of Ray is for calls alone.
POOLS: Final[tuple[type[Pool], ...]] = (ProcessPool, Pebble, Loky)


def advice(pool: type[Pool]) -> str:
    return f"not installed (pip install 'isoplug[{pool.extra}]')"


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started meanwhile do not hear Ctrl-C, which a terminal sends to all: they would each print where they
    were interrupted. Their pool ends them."""
    resource_tracker.ensure_running()  # starting it would lift the block, up to Python 3.13
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
