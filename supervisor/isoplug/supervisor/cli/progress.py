"""The progress bar of commands that take a while, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(*, is_wanted: bool) -> Iterator[Callable[[str, float, str], None]]:
    """What to tell of the progress: the phase, the share that is done, what has been counted. There is a bar when
    stderr is a terminal, and it goes at the end."""
    console = Console(stderr=True)
    if not is_wanted or not console.is_terminal:
        yield lambda phase, share, counts: None
        return
    words, counted = TextColumn("{task.description}"), TextColumn("{task.fields[counts]}")
    with Progress(words, BarColumn(12), TaskProgressColumn(), counted, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, counts="")

        def show(phase: str, share: float, counts: str) -> None:
            bar.update(task, description=phase, completed=share, counts=counts)

        yield show
