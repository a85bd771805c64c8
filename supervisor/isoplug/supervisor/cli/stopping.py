"""Stopping a run that has folders and processes to put away."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

__all__ = ["put_away_when_stopped"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def put_away_when_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in order, so that nothing of it stays behind, and with a code of their own:
    1 would be a verdict."""

    def stop(number: int, _frame: object) -> NoReturn:
        for one in _STOPPING:
            signal.signal(one, signal.SIG_IGN)  # a second one must not interrupt the tidying
        click.echo("isoplug: stopping; a run that was stopped has no result", err=True)
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
