"""The progress bar of commands that load plugins: late, on a terminal only, and gone at the end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from commands import Terminal
from conftest import wait_until
from isoplug.supervisor import LoadProgress
from isoplug.supervisor.cli import loading
from isoplug.supervisor.cli.loading import loading_bar


@contextmanager
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """No fixture: pytest replaces stderr once more when the test begins."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal.slave, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        try:
            yield terminal
        finally:
            stderr.close()
            terminal.close()


def test_a_load_that_takes_long_has_a_bar_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PATIENCE_SECONDS", 0.01)
    with on_terminal(monkeypatch) as terminal:
        with loading_bar() as on_progress:
            on_progress(LoadProgress(total=40, started=7))
            wait_until(lambda: "7 of 40 started" in terminal.text)
            on_progress(LoadProgress(total=40, started=40, done=33))
            wait_until(lambda: "33 of 40" in terminal.text)
        wait_until(lambda: terminal.text.endswith("\x1b[2K"))  # the line is erased


def test_a_load_that_is_done_soon_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PATIENCE_SECONDS", 600.0)
    with on_terminal(monkeypatch) as terminal, loading_bar() as on_progress:
        on_progress(LoadProgress(total=1, started=1, done=1))
    assert not terminal.text
    wait_until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)])


def test_without_a_terminal_there_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading, "_PATIENCE_SECONDS", 0.0)
    with loading_bar() as on_progress:
        on_progress(LoadProgress(total=40, started=7))
    assert not capsys.readouterr().err
