"""The scenes of the demo, in order. Everything shown is measured or read back while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape

from isoplug.shared.errors import PluginError, WorkerCrashed
from isoplug.supervisor.cli.show import status_table
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["run"]

_HERE = Path(__file__).parent
_WAIT_SECONDS = 10.0


def run() -> None:
    """Show every scene on stdout. Raises PluginError when one of them fails."""
    console = Console(highlight=False, soft_wrap=True)
    before = _processes()
    with (
        _copies() as folder,
        Supervisor(folder / "plugins", folder / "journal", state_dir=folder / "state") as supervisor,
    ):
        _introduce(console, supervisor)
        _commands(console, supervisor, folder / "journal")
        _denial(console, supervisor)
        _crash(console, supervisor)
        _recursion(console, supervisor)
        _title(console, "How everybody is now")
        status_table(list(supervisor.status().values()), console)
    _farewell(console, before, folder)


def _introduce(console: Console, supervisor: Supervisor) -> None:
    _title(console, "Four plugins, each in a process of its own")
    for plugin in supervisor.plugins.values():
        (pid,) = plugin.status.worker_pids
        console.print(f"  {plugin.id:<18} pid {pid:<8} {escape(plugin.manifest.description)}")


def _commands(console: Console, supervisor: Supervisor, journal: Path) -> None:
    _title(console, "Commands, and the files they wrote")
    old = _files(journal)
    entry = _shown(console, supervisor, "diaryx.daily", "today", {"text": "Tried isoplug."})
    count = _shown(console, supervisor, "diaryx.words", "count", answer=lambda data: _pick(data, "total", "skipped"))
    _shown(console, supervisor, "diaryx.backlinks", "table", answer=lambda data: _pick(data, "written", "links"))
    console.print(f"  {len(count['files'])} pages have {count['total']} words; today's entry is {entry['path']}")
    for name, content in _files(journal).items():
        if old.get(name) != content:
            console.print(
                f"    [green]{'new' if name not in old else 'changed'}[/] {escape(name)} ({len(content)} bytes)"
            )


def _denial(console: Console, supervisor: Supervisor) -> None:
    _title(console, "A plugin reads what it may not")
    _shown(console, supervisor, "demo.trouble", "peek", {"path": "private/letter-never-sent.md"})


def _crash(console: Console, supervisor: Supervisor) -> None:
    _title(console, "kill -9 in the middle of a call")
    plugin = supervisor.plugins["demo.trouble"]
    outcome: list[PluginError] = []

    def spin() -> None:
        try:
            supervisor.command("demo.trouble", "spin")
        except PluginError as error:
            outcome.append(error)

    idle = plugin.status
    caller = threading.Thread(target=spin)
    caller.start()
    _wait_until(lambda: plugin.status.cpu_seconds > idle.cpu_seconds + 0.05)  # now it is the guest that runs
    (pid,) = plugin.status.worker_pids
    console.print(f"  demo.trouble spin is running in pid {pid}; killing it")
    killed_at = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    caller.join()
    heard_at = time.perf_counter()
    (error,) = outcome
    assert isinstance(error, WorkerCrashed), error
    console.print(
        f"  after {_ms(heard_at - killed_at)} the caller got [red]{type(error).__name__}[/]: {escape(str(error))}"
    )
    supervisor.call("demo.trouble", "manifest")
    answered_at = time.perf_counter()
    (new_pid,) = plugin.status.worker_pids
    console.print(f"  after {_ms(answered_at - killed_at)} the plugin answered again, in pid {new_pid}")


def _recursion(console: Console, supervisor: Supervisor) -> None:
    _title(console, "Two plugins that call each other for ever")
    _shown(console, supervisor, "diaryx.backlinks", "bounce", {"to": "diaryx.words", "n": 0})


def _farewell(console: Console, before: set[int], folder: Path) -> None:
    _wait_until(lambda: not _processes() - before)
    assert not folder.exists()
    console.print("\nAll processes have ended, all files of the demo are removed. Next: isoplug --help\n")


def _shown(
    console: Console,
    supervisor: Supervisor,
    plugin: str,
    command: str,
    params: Any = None,
    answer: Any = lambda data: data,
) -> Any:
    """Run a command and print what a caller sees of it."""
    started_at = time.perf_counter()
    try:
        data = supervisor.command(plugin, command, params)
    except PluginError as error:
        console.print(f"  {plugin} {command} → [red]{type(error).__name__}[/]: {escape(str(error))}")
        return None
    took = _ms(time.perf_counter() - started_at)
    console.print(f"  {plugin} {command} → {escape(str(answer(data)))} [dim]({took})[/]")
    return data


def _title(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _pick(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: data[key] for key in keys}


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _processes() -> set[int]:
    """This process's descendants: the zygote, templates and workers."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _wait_until(condition: Any) -> None:
    give_up_at = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            raise PluginError("the demo waited in vain; this is a bug of isoplug, please report it")
        time.sleep(0.001)


@contextmanager
def _copies() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="isoplug-demo-") as folder:
        for part in ("plugins", "journal"):
            shutil.copytree(_HERE / part, Path(folder) / part)
        yield Path(folder)
