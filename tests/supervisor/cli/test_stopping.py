"""Ctrl-C ends a run wherever it is."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from isoplug.supervisor.cli.stopping import put_away_when_stopped

SAID = "isoplug: stopping; a run that was stopped has no result\n"


class Finalized:
    """Struck by a signal when it is forgotten."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def run() -> None:
    Finalized()
    time.sleep(60)
    pytest.fail("it went on")


def test_a_signal_ends_the_run_with_a_code_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, put_away_when_stopped():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert capfd.readouterr().err == SAID


def test_a_signal_that_strikes_a_finalizer_ends_the_run_as_well(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended, put_away_when_stopped():
        run()
    assert ended.value.code == 128 + signal.SIGINT
    assert capfd.readouterr().err == SAID
    assert signal.getsignal(signal.SIGINT) is before


def test_a_machine_that_is_slow_just_then_does_not_keep_the_run_going(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start = threading.Thread.start

    def start_slowly(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(0.1)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    with pytest.raises(SystemExit) as ended, put_away_when_stopped():
        run()
    assert ended.value.code == 128 + signal.SIGINT
    assert capfd.readouterr().err == SAID
