"""The progress bar of commands that load plugins, on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from isoplug.supervisor.reload import LoadProgress, OnProgress

__all__ = ["loading_bar"]

#: Who waits no longer than this needs no bar, nor the time that it takes to import one.
_PATIENCE_SECONDS = 1.0


@contextmanager
def loading_bar() -> Iterator[OnProgress]:
    """What to tell of the load. There is a bar when it takes longer than a second and stderr is a terminal, and it goes
    at the end."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _LateBar()
    timer = threading.Timer(_PATIENCE_SECONDS, bar.show)
    timer.daemon = True
    with suppress(RuntimeError):  # no thread is left: no bar
        timer.start()
    try:
        yield bar.update
    finally:
        timer.cancel()
        bar.close()


class _LateBar:
    """Thread-safe. What it is told before it is shown, it knows by then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: LoadProgress | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._is_closed = False

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        words, counted = TextColumn("loading plugins"), TextColumn("{task.fields[counts]}")
        bar = Progress(words, BarColumn(24), counted, console=Console(stderr=True), transient=True)
        with self._lock:
            if self._is_closed:
                return
            self._bar, self._task = bar, bar.add_task("", total=1.0, counts="")
            bar.start()
            self._draw()

    def update(self, progress: LoadProgress) -> None:
        with self._lock:
            self._progress = progress
            self._draw()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._bar is not None:
                self._bar.stop()

    def _draw(self) -> None:
        """With the lock held."""
        if self._bar is not None and self._task is not None and self._progress is not None:
            counts = f"{self._progress.done} of {self._progress.total}"
            if not self._progress.done:
                counts = f"{self._progress.started} of {self._progress.total} started"
            self._bar.update(self._task, completed=self._progress.share, counts=counts)
