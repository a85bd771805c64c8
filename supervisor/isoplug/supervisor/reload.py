"""Making what is loaded agree with the plugins folder: at the start, and whenever somebody asks.

A reload looks first (what is new, gone, changed; whose is it), decides then (``plugins.homes``), and acts last.
Starting a module in order to ask it for its id disturbs nobody. What cannot be loaded is remembered by the state of its
files, and not tried again before that changes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from isoplug.shared.errors import CallCancelled, LoadError, PluginError, PluginNotFound, SetupError, SupervisorClosed
from isoplug.supervisor.integrity import checksum_file, signature_file
from isoplug.supervisor.loader import Loader
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.folder import PluginFiles, scan
from isoplug.supervisor.plugins.homes import Changes, Found, Resident, changes
from isoplug.supervisor.plugins.module import Stamp
from isoplug.supervisor.plugins.table import IdTaken, Plugin, PluginTable
from isoplug.supervisor.starting import Source, Started

__all__ = ["Handlers", "LoadProgress", "OnProgress", "ReloadReport", "Reloader"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = get_logger(__name__)

#: Modules compile in parallel, which is what starting is mostly made of.
_PARALLEL_STARTS = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a scan of the plugins folder is. Of ``total`` folders with a plugin, ``started`` have been looked at, and
    their modules started where that is needed; ``done`` need nothing more: they are ready for calls, or refused."""

    total: int
    started: int = 0
    done: int = 0

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return (self.started + self.done) / (2 * self.total) if self.total else 1.0


#: Hears of each step of a load, in the thread that loads. It must not wait; what it raises is logged.
OnProgress: TypeAlias = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload has done. ``loaded``, ``upgraded``, ``unloaded`` and ``configured`` (told another configuration)
    have plugin ids; ``refused`` says by folder name what is not in charge as the folder has it, also what was refused
    before and has not changed since."""

    loaded: tuple[str, ...] = ()
    upgraded: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    configured: tuple[str, ...] = ()
    refused: Mapping[str, PluginError] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        refused = {name: {"code": error.code, "message": str(error)} for name, error in self.refused.items()}
        return {
            "loaded": list(self.loaded),
            "upgraded": list(self.upgraded),
            "unloaded": list(self.unloaded),
            "configured": list(self.configured),
            "refused": refused,
        }


class Handlers(NamedTuple):
    """What the supervisor does for the reloader: ``welcome`` a plugin that was loaded, ``resume`` what waits for one
    that was upgraded, ``unload`` one that is gone, ``configure`` one whose sidecar may have changed (True when it
    had)."""

    welcome: Callable[[Plugin], None]
    resume: Callable[[Plugin], None]
    unload: Callable[[Plugin], None]
    configure: Callable[[Plugin], bool]


class _State(NamedTuple):
    """Of the files that decide whether a plugin can be loaded."""

    module: Stamp | None
    config: Stamp | None
    checksum: Stamp | None
    signature: Stamp | None

    @classmethod
    def of(cls, files: PluginFiles) -> _State:
        beside = (files.config, checksum_file(files.wasm), signature_file(files.wasm))
        return cls(Stamp.of(files.wasm), *(Stamp.of(path) for path in beside))


class _Failure(NamedTuple):
    state: _State
    error: PluginError

    def is_final(self, now: _State) -> bool:
        """Trying again would end in the same way."""
        is_ours = isinstance(self.error, (SetupError, IdTaken, SupervisorClosed, CallCancelled))
        return not is_ours and self.state.module is not None and self.state == now


@dataclass(slots=True)
class _Look:
    """One folder, as this reload sees it."""

    files: PluginFiles
    state: _State
    plugin_id: str | None = None
    sha256: str | None = None
    started: Started | None = None
    error: PluginError | None = None

    @property
    def found(self) -> Found:
        return Found(self.files.name, self.plugin_id, self.sha256)

    def take_started(self) -> Started:
        started, self.started = self.started, None
        assert started is not None
        return started

    def discard(self) -> None:
        if self.started is not None:
            self.take_started().discard()


class Reloader:
    """Of one supervisor. Thread-safe: reloads are one after the other."""

    def __init__(
        self,
        loader: Loader,
        table: PluginTable,
        plugins_dir: Path,
        handlers: Handlers,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self._loader = loader
        self._table = table
        self._plugins_dir = plugins_dir
        self._handlers = handlers
        self._on_progress = on_progress
        self._progress = LoadProgress(0)
        self._reloading = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._failures: dict[str, _Failure] = {}

    @property
    def load_errors(self) -> dict[str, PluginError]:
        return {name: failure.error for name, failure in self._failures.items()}

    def reload(self, *, force: bool) -> ReloadReport:
        """``force``: try again what was refused, although its files have not changed. Raises SetupError."""
        with self._reloading, ExitStack() as cleanup:
            candidates = self._scan()
            self._tell(LoadProgress(len(candidates)))
            residents = self._residents()
            # Once: a trial may end while this goes on.
            known = [Resident(p.id, name, p.versions.in_charge.module.sha256) for name, p in residents.items()]
            looks = {files.name: _Look(files, _State.of(files)) for files in candidates}
            for look in looks.values():
                cleanup.callback(look.discard)
            self._look_at_all(looks.values(), residents, known, force=force)
            plan = changes([look.found for look in looks.values()], known)
            report = self._carry_out(plan, looks, residents)
            self._remember(looks)
            return report

    def _tell(self, progress: LoadProgress) -> None:
        self._progress = progress
        try:
            self._on_progress(progress)
        except Exception:  # noqa: BLE001  a host's display must not stop its plugins
            _log.exception("load.progress_not_shown")

    def _has_started_one(self) -> None:
        self._tell(replace(self._progress, started=self._progress.started + 1))

    def _has_done_one(self) -> None:
        self._tell(replace(self._progress, done=self._progress.done + 1))

    def _residents(self) -> dict[str, Plugin]:
        """What is loaded from this folder, by the name of its own."""
        return {p.files.name: p for p in self._table.snapshot().values() if p.files.is_in(self._plugins_dir)}

    # --- looking --------------------------------------------------------------------------------------------------

    def _scan(self) -> list[PluginFiles]:
        """A folder that has become another one, and an empty one, is one that was unmounted or taken away."""
        found = scan(self._plugins_dir)
        identity = _identity(self._plugins_dir)
        if not found and self._identity not in (None, identity):
            raise SetupError(
                f"the plugins folder {self._plugins_dir} is not the one that plugins were loaded from, and it is "
                "empty; mount it again, or unload the plugins one by one"
            )
        self._identity = identity
        return found

    def _look_at_all(
        self, looks: Iterable[_Look], residents: Mapping[str, Plugin], known: Iterable[Resident], *, force: bool
    ) -> None:
        by_sha256 = {resident.sha256: resident for resident in known}

        def look_at(look: _Look) -> None:
            try:
                self._look_at(look, residents.get(look.files.name), by_sha256, force=force)
            except PluginError as error:
                look.error = error

        _in_parallel(look_at, list(looks), _PARALLEL_STARTS, "isoplug-load", self._has_started_one)

    def _look_at(self, look: _Look, resident: Plugin | None, by_sha256: Mapping[str, Resident], *, force: bool) -> None:
        """Whose module it is; raises PluginError when that cannot be told."""
        failure = self._failures.get(look.files.name)
        if resident is None and failure is not None and failure.is_final(look.state) and not force:
            raise failure.error
        module = None if resident is None else resident.versions.in_charge.module
        if resident is not None and module is not None and module.stamp == look.state.module:
            look.plugin_id, look.sha256 = resident.id, module.sha256
            return
        source = self._read(look, resident)
        look.sha256 = source.sha256
        same = by_sha256.get(look.sha256)
        if same is not None:
            look.plugin_id = same.plugin_id
            if module is not None and module.sha256 == look.sha256:  # touched, or written anew as it was
                module.stamp = source.stamp
            return
        refusal = None if resident is None else resident.versions.refusal
        if refusal is not None and refusal.sha256 == look.sha256 and not force:
            raise refusal.error
        self._ask(look, source, resident)

    def _read(self, look: _Look, resident: Plugin | None) -> Source:
        try:
            return self._loader.starter.read(look.files)
        except PluginError as error:
            if resident is not None:
                self._refuse(resident, "the new version", error, None)
            raise

    def _ask(self, look: _Look, source: Source, resident: Plugin | None) -> None:
        try:
            look.started = self._loader.starter.start(source, is_upgrade=resident is not None)
        except PluginError as error:
            if resident is not None:
                self._refuse(resident, "the new version", error, look.sha256)
            raise
        look.plugin_id = look.started.manifest.id

    # --- acting ---------------------------------------------------------------------------------------------------

    def _carry_out(self, plan: Changes, looks: Mapping[str, _Look], residents: Mapping[str, Plugin]) -> ReloadReport:
        by_id = {plugin.id: plugin for plugin in residents.values()}
        for name, holder in plan.taken.items():
            error = looks[name].error = IdTaken(looks[name].plugin_id or "", looks[holder].files.wasm)
            if name in residents:
                self._refuse(residents[name], "the new version", error, None)  # the id may become free
        for name, plugin_id in plan.renamed.items():
            self._refuse_rename(looks[name], by_id[plugin_id])
        for plugin_id in plan.unload:
            with suppress(PluginNotFound):  # somebody else has
                self._handlers.unload(by_id[plugin_id])
        for plugin_id, name in plan.move.items():
            self._move(by_id[plugin_id], looks[name])
        for plugin_id, name in (plan.stay | plan.move).items():
            by_id[plugin_id].versions.forget_refusal(looks[name].sha256)
        loaded, upgraded = self._start_all(plan, looks, by_id)
        configured = [
            plugin_id
            for plugin_id, name in (plan.stay | plan.move).items()
            if self._configure(by_id[plugin_id], looks[name])
        ]
        refused = {name: look.error for name, look in looks.items() if look.error is not None}
        return ReloadReport(tuple(loaded), tuple(upgraded), plan.unload, tuple(configured), refused)

    def _start_all(
        self, plan: Changes, looks: Mapping[str, _Look], by_id: Mapping[str, Plugin]
    ) -> tuple[list[str], list[str]]:
        """A thread for each that runs: an ``init`` may wait for another plugin, which must not wait for a thread."""
        admitted = []
        for name in plan.load:
            look = looks[name]
            entry = _noting(look, partial(self._loader.admit, look.take_started()))
            if entry is not None:
                admitted.append((look, entry))
        loads = [(look, partial(self._loader.prepare, entry)) for look, entry in admitted]
        upgrades = [(looks[name], partial(self._upgrade, by_id[i], looks[name])) for i, name in plan.upgrade.items()]
        steps = [*loads, *upgrades]
        self._tell(replace(self._progress, done=len(looks) - len(steps)))
        running = sum(not entry.is_asleep for _, entry in admitted) + len(upgrades)
        done = _in_parallel(lambda step: _noting(*step), steps, max(1, running), "isoplug-init", self._has_done_one)
        plugins = [plugin for plugin in done[: len(loads)] if plugin is not None]
        for plugin in plugins:
            self._handlers.welcome(plugin)
        return [plugin.id for plugin in plugins], [plugin.id for plugin in done[len(loads) :] if plugin is not None]

    def _upgrade(self, plugin: Plugin, look: _Look) -> Plugin:
        started = look.take_started()
        try:
            self._loader.upgrade(plugin, started)
        except PluginError as error:
            self._refuse(plugin, started.manifest.version, error, look.sha256)
            raise
        self._handlers.resume(plugin)
        return plugin

    def _configure(self, plugin: Plugin, look: _Look) -> bool:
        """Whether it was told another configuration."""
        try:
            return self._handlers.configure(plugin)
        except PluginError as error:
            look.error = error
            _log.error("plugin.config_refused", plugin=plugin.id, code=error.code, reason=str(error))
            return False

    def _move(self, plugin: Plugin, look: _Look) -> None:
        plugin.files = look.files
        if look.state.module is not None:
            module = plugin.versions.in_charge.module
            module.stamp, module.source = look.state.module, look.files.wasm
        _log.info("plugin.moved", plugin=plugin.id, folder=look.files.name)

    def _refuse_rename(self, look: _Look, resident: Plugin) -> None:
        error = LoadError(
            f"{look.files.wasm} tells the id {look.plugin_id!r}, but plugin {resident.id!r} lives there; give the new "
            "one a folder of its own, or remove this one",
            plugin_id=resident.id,
        )
        look.error = error
        self._refuse(resident, "the new version", error, look.sha256)

    def _refuse(self, plugin: Plugin, what: str, error: PluginError, sha256: str | None) -> None:
        is_ours = isinstance(error, (SetupError, SupervisorClosed, CallCancelled))
        plugin.versions.refuse(what, error, None if is_ours else sha256)
        _log.error("plugin.upgrade_refused", plugin=plugin.id, code=error.code, reason=str(error))

    def _remember(self, looks: Mapping[str, _Look]) -> None:
        loaded = self._residents()
        before, self._failures = (
            self._failures,
            {
                name: _Failure(look.state, look.error)
                for name, look in looks.items()
                if look.error is not None and name not in loaded
            },
        )
        for name, failure in self._failures.items():
            if name not in before or before[name].error is not failure.error:
                reason = str(failure.error)
                _log.error("plugin.load_failed", plugin=name, code=failure.error.code, reason=reason)


def _noting(look: _Look, step: Callable[[], _T]) -> _T | None:
    """``step()``; a PluginError becomes the look's, so that what fails does not stop the others."""
    try:
        return step()
    except PluginError as error:
        look.error = error
        return None


def _identity(folder: Path) -> tuple[int, int]:
    """Raises SetupError."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise SetupError(f"cannot look at the plugins folder {folder}: {error.strerror}; mount it again") from error
    return status.st_dev, status.st_ino


def _in_parallel(
    step: Callable[[_T], _R], items: list[_T], threads: int, name: str, on_done: Callable[[], None]
) -> list[_R]:
    """In the order of ``items``; ``on_done`` is called here, after each. Raises SetupError when the machine or, at its
    end, the interpreter starts no more threads."""
    if not items:
        return []
    with _pool_of_threads(min(threads, len(items)), name) as pool:
        futures = [pool.submit(step, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                on_done()
            return [future.result() for future in futures]
        finally:  # an error, or an interrupt (Ctrl-C): what has not begun is left
            for future in futures:
                future.cancel()


@contextmanager
def _pool_of_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    try:
        with ThreadPoolExecutor(count, name) as threads:
            yield threads
    except RuntimeError as error:
        raise SetupError(
            f"cannot start the threads that load plugins: {error}; free processes, and start a Supervisor before the "
            "interpreter shuts down"
        ) from error
