"""Starts of regular workers, each in a thread of its own: wait as long as the plugin backs off, start, say what came of
it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from isoplug.shared.errors import PluginError, SetupError
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.crew import Crew, StartUnderWay
from isoplug.supervisor.pool.lease import Chain, LeaseBook
from isoplug.supervisor.pool.policy import ExitReason, Loss
from isoplug.supervisor.pool.worker import Worker

__all__ = ["Recruiter", "Start"]

_log = get_logger(__name__)

#: Starts one worker of the plugin (launch, ``set_config``, ``init``) as part of a chain at a depth; raises PluginError.
Start: TypeAlias = Callable[[Chain, Deadline, int], Worker]

#: What came of a start: a worker, why there is none, or nothing when it was not wanted any more.
StartResult: TypeAlias = Worker | Loss | None


class Recruiter:
    """Of one pool. ``is_wanted`` is asked with the book's lock held, ``ended`` is called without it, by the thread of
    the start. Whoever changes what ``is_wanted`` says, or that a start waits, notifies ``changed``."""

    def __init__(
        self,
        plugin_id: str,
        start: Start,
        timeout_seconds: float,
        book: LeaseBook,
        changed: threading.Condition,
        crew: Crew,
        is_wanted: Callable[[], bool],
        ended: Callable[[StartUnderWay, StartResult], None],
    ) -> None:
        self._plugin_id = plugin_id
        self._start = start
        self._timeout_seconds = timeout_seconds
        self._book = book
        self._changed = changed
        self._crew = crew
        self._is_wanted = is_wanted
        self._ended = ended

    def begin(self, start: StartUnderWay, delay_seconds: float) -> None:
        """With the lock held. Raises RuntimeError when there is no thread for it: none is left, or the interpreter is
        ending."""
        name = f"isoplug-start-{self._plugin_id}"
        threading.Thread(target=self._run, args=(start, delay_seconds), name=name, daemon=True).start()

    def _run(self, start: StartUnderWay, delay_seconds: float) -> None:
        with self._book.lock:
            self._changed.wait_for(lambda: not (start.is_waiting and self._is_wanted()), delay_seconds)
            if start not in self._crew.starts:  # ``begin`` was interrupted, and another one takes its place
                return
            chain = Chain() if self._is_wanted() else None
            if chain is not None:
                self._crew.begin(start, chain)
        self._ended(start, None if chain is None else self._try(chain))

    def _try(self, chain: Chain) -> Worker | Loss:
        try:
            return self._start(chain, Deadline.after(self._timeout_seconds), 0)
        except SetupError as error:
            return Loss(ExitReason.MACHINE, str(error))
        except PluginError as error:
            return Loss(ExitReason.START_FAILED, str(error))
        except Exception as error:  # noqa: BLE001  a fault of ours must not leave the plugin "starting" for ever
            _log.exception("worker.start_failed", plugin=self._plugin_id)
            return Loss(ExitReason.START_FAILED, f"{type(error).__name__}: {error}")
