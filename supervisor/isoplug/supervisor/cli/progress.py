"""The progress bar of ``isoplug chaos``, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from isoplug.supervisor.chaos.run import Progress as RunProgress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(*, is_wanted: bool) -> Iterator[Callable[[RunProgress], None]]:
    """What to tell of the run's progress. There is a bar when stderr is a terminal, and it goes at the end."""
    console = Console(stderr=True)
    if not is_wanted or not console.is_terminal:
        yield lambda _: None
        return
    words, counted = TextColumn("{task.description}"), TextColumn("{task.fields[counts]}")
    with Progress(words, BarColumn(12), TaskProgressColumn(), counted, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, counts="")

        def show(progress: RunProgress) -> None:
            counts = (
                f"{progress.calls} calls, {progress.injected} faults: {progress.failed} failed, "
                f"{progress.wrong} wrong, {progress.late} late"
            )
            bar.update(task, description=progress.phase, completed=progress.share, counts=counts)

        yield show
