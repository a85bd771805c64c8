"""Which version of a plugin is in charge, which one stands by, and which are on their way out.

A new version is on trial until it has answered some calls or lived for a while. As long as it is, the one before stands
by, with its worker and its module; when the new one loses a worker by its own fault, the old one is in charge again at
once. One lock makes every change a single step; whoever only wants to call reads ``in_charge``.

The order of two lines matters. A pool is told to stand by only after another one is in charge, and lends again before
it is in charge: so a caller that a pool sends away always finds a pool that takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from isoplug.shared.errors import LoadError, PluginError, SetupError, SupervisorClosed
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.manifest import Manifest
from isoplug.supervisor.plugins.module import Module
from isoplug.supervisor.pool import Loss, Pool

__all__ = ["Refusal", "Release", "Terms", "Versions"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """One version of a plugin: what it says of itself, what was loaded, and who runs it."""

    manifest: Manifest
    module: Module
    pool: Pool

    @property
    def version(self) -> str:
        return self.manifest.version


@dataclass(frozen=True, slots=True)
class Terms:
    """A trial is passed after so many answered calls or so many seconds, whichever comes first; 0 calls: no trial."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a newer module is not in charge. ``sha256`` is None when it was not the module's fault."""

    sha256: str | None
    error: PluginError
    text: str


class Retire(Protocol):
    def __call__(self, release: Release) -> None:
        """End its processes and let go of its module. Waits for its calls in progress."""


@dataclass(slots=True)
class _Trial:
    new: Release
    old: Release
    calls_left: int
    loser: Release | None = None  # set once, and with it the trial is over


class Versions:
    """The releases of one plugin. Thread-safe. ``on_change`` is told, outside the lock, that calls go elsewhere now."""

    def __init__(self, first: Release, retire: Retire, on_change: Callable[[], None]) -> None:
        #: Replaced as a whole, so it may be read without the lock.
        self.in_charge = first
        self.refusal: Refusal | None = None
        self._retire = retire
        self._on_change = on_change
        self._lock = threading.RLock()  # entered by itself, see ``Keeper``
        self._changed = threading.Condition(self._lock)
        self._trial: _Trial | None = None
        self._leaving: list[Release] = []
        self._threads: set[threading.Thread] = set()
        self._retired_restarts = 0
        self._is_stopped = False

    # --- what there is --------------------------------------------------------------------------------------------

    @property
    def all(self) -> tuple[Release, ...]:
        """Everything that has processes, the one in charge first."""
        with self._lock:
            standing_by = () if self._trial is None else (self._trial.old,)
            return (self.in_charge, *standing_by, *self._leaving)

    @property
    def standing_by(self) -> Release | None:
        with self._lock:
            return None if self._trial is None else self._trial.old

    @property
    def restarts(self) -> int:
        """Of all versions together."""
        return self._retired_restarts + sum(release.pool.restarts for release in self.all)

    @property
    def note(self) -> str | None:
        """Why the newest version is not in charge, or that it is on trial; None: nothing to tell."""
        with self._lock:
            if self.refusal is not None:
                return f"{self.refusal.text}; {self.in_charge.version} stays in charge"
            if self._trial is not None:
                return f"{self._trial.new.version} is on trial; {self._trial.old.version} stands by"
            return None

    # --- changes --------------------------------------------------------------------------------------------------

    def promote(self, new: Release, terms: Terms) -> None:
        """``new`` is in charge from now on: who waits for another version goes over to it. During a trial the proven
        version goes on standing by, and the one that was on trial leaves.

        Raises SupervisorClosed, SetupError.
        """
        with self._lock:
            if self._is_stopped:
                raise SupervisorClosed(new.manifest.id)
            before, proven = self.in_charge, self.in_charge if self._trial is None else self._trial.old
            trial = _Trial(new, proven, terms.calls)
            self._watch(trial, terms.seconds)  # it waits for the lock
            self.in_charge, self.refusal = new, None
            before.pool.stand_by()
            if self._trial is not None:
                self._end(self._trial, loser=before)
            self._trial = trial
            if not terms.calls:
                self._end(trial, loser=proven)
        self._on_change()

    def answered(self, pool: Pool) -> None:
        """A call that this pool's worker has answered."""
        trial = self._trial
        if trial is None or trial.new.pool is not pool:
            return
        with self._lock:
            trial.calls_left -= 1
            if trial.calls_left <= 0 and trial.loser is None:
                self._end(trial, loser=trial.old)

    def lost(self, pool: Pool, loss: Loss) -> None:
        """A worker of this pool is gone. By the plugin's own fault and on trial: back to the version before."""
        if not loss.reason.counts:
            return
        with self._lock:
            trial = self._trial
            if trial is None or trial.new.pool is not pool or self._is_stopped:
                return
            trial.old.pool.take_over()
            self.in_charge = trial.old
            pool.stand_by()
            text = f"{trial.new.version} was rolled back: {loss.text}"
            error = LoadError(f"plugin {trial.new.manifest.id!r}: {text}", plugin_id=trial.new.manifest.id)
            self.refusal = Refusal(trial.new.module.sha256, error, text)
            self._end(trial, loser=trial.new)
        _log.error(
            "plugin.rolled_back",
            plugin=trial.new.manifest.id,
            version=trial.new.version,
            to=trial.old.version,
            cause=loss.text,
        )
        self._on_change()

    def refuse(self, what: str, error: PluginError, sha256: str | None) -> None:
        """A newer module cannot take over: remember why."""
        with self._lock:
            self.refusal = Refusal(sha256, error, f"{what} was refused: {error}")

    def forget_refusal(self, sha256: str | None) -> None:
        """This is the newest module: when it is the one in charge, nothing is refused."""
        with self._lock:
            if self.in_charge.module.sha256 == sha256:
                self.refusal = None

    def stop(self) -> tuple[Release, ...]:
        """The plugin is about to go: nothing is promoted or rolled back any more. Everything that has processes;
        whoever asked ends it, then calls ``join``."""
        with self._lock:
            self._is_stopped = True
            self._changed.notify_all()
        return self.all

    def join(self, deadline: Deadline) -> None:
        for thread in tuple(self._threads):
            thread.join(deadline.remaining_seconds())

    # --- inside ---------------------------------------------------------------------------------------------------

    def _end(self, trial: _Trial, loser: Release) -> None:
        """With the lock held."""
        trial.loser = loser
        self._leaving.append(loser)
        if self._trial is trial:
            self._trial = None
        self._changed.notify_all()

    def _watch(self, trial: _Trial, seconds: float) -> None:
        """With the lock held."""
        name = f"isoplug-trial-{trial.new.manifest.id}"
        thread = threading.Thread(target=self._see_through, args=(trial, seconds), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending
            raise SetupError(f"the trial of a new version cannot be watched: {error}; free processes") from error
        self._threads.add(thread)

    def _see_through(self, trial: _Trial, seconds: float) -> None:
        """In a thread of its own: wait for the verdict, then see the loser out."""
        with self._lock:
            self._changed.wait_for(lambda: self._is_stopped or self._trial is not trial, seconds)
            if self._trial is trial and not self._is_stopped:
                self._end(trial, loser=trial.old)
            loser = trial.loser
        if loser is trial.old:
            _log.info("plugin.upgraded", plugin=trial.new.manifest.id, version=trial.new.version)
        if loser is not None:
            self._retire(loser)
        with self._lock:
            if loser is not None:
                self._leaving.remove(loser)
                self._retired_restarts += loser.pool.restarts
            self._threads.discard(threading.current_thread())
