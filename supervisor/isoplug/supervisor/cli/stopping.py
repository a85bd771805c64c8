"""Stopping a run that has folders and processes to put away."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import NoReturn

import click

__all__ = ["put_away_when_stopped"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


#: What swallowed the exception has ended by then.
_AGAIN_SECONDS = 0.02


class _Stopped(SystemExit):
    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def put_away_when_stopped(*, has_result: bool = False) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in order, so that nothing of it stays behind, and with a code of their own:
    1 would be a verdict. ``has_result``: the run says itself what there is of it."""
    stopping = "isoplug: stopping" if has_result else "isoplug: stopping; a run that was stopped has no result"

    def stop(number: int, _frame: object) -> NoReturn:
        click.echo(stopping, err=True)
        end(number, None)

    def end(number: int, _frame: object) -> NoReturn:
        for one in _STOPPING:
            signal.signal(one, signal.SIG_IGN)  # a second one must not interrupt the tidying
        raise _Stopped(number)

    def end_again(unraisable: sys.UnraisableHookArgs) -> None:
        """Finalizers and callbacks of weak references run in the main thread too, and Python swallows what is raised in
        them: the run would go on, deaf to signals."""
        error = unraisable.exc_value
        if not isinstance(error, _Stopped):
            hook_before(unraisable)
            return
        signal.signal(error.number, end)
        threading.Thread(target=strike_again, args=(error.number,), daemon=True).start()

    def strike_again(number: int) -> None:
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        time.sleep(_AGAIN_SECONDS)
        while _is_in(end_again.__code__, sys._current_frames()[main_thread]):  # there it would be swallowed as well
            time.sleep(_AGAIN_SECONDS)
        signal.pthread_kill(main_thread, number)

    hook_before, sys.unraisablehook = sys.unraisablehook, end_again
    before = {number: signal.signal(number, stop) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook_before


def _is_in(code: CodeType, frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
