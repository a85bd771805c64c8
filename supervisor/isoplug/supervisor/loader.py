"""From a folder to running plugins: scan, start, ask for the manifest, admit, prepare (SPEC section 2).

Loading all is three passes, so that plugins may call each other from ``init``: every module is started and asked who it
is (in parallel), then admitted one after the other in the order of their folders' names (versions, unique ids), then
prepared (in parallel: ``set_config``, ``init``). What fails is reported by folder name and stops nobody else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoplug.shared.errors import (
    CommandError,
    CommandNotFound,
    ConfigError,
    LoadError,
    PluginError,
    PluginNotFound,
    SetupError,
)
from isoplug.supervisor.calls import CallRunner, Frame
from isoplug.supervisor.calls.commands import parse_json, to_bytes
from isoplug.supervisor.calls.sockets import SocketGuest
from isoplug.supervisor.config import Config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.host import Services, for_nobody
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.manifest import Manifest, check_compatible, parse_manifest, read_cached, write_cached
from isoplug.supervisor.plugins.sidecar import read_config, write_config
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.pool import Chain, Launcher, LeaseBook, Pool, RestartBudget, RestartPolicy, Worker
from isoplug.supervisor.workspace import GuardedFilesystem

__all__ = ["Loader", "PluginFiles", "scan"]

_log = get_logger(__name__)

_MAGIC = b"\0asm"
_CORE_MODULE = b"\x01\0\0\0"
#: Modules compile in parallel, which is what starting is mostly made of.
_PARALLEL_STARTS = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class PluginFiles:
    """Where one plugin lies. ``name`` is its folder's name, or the module's unless that is ``plugin.wasm``."""

    name: str
    wasm: Path
    config: Path
    manifest: Path

    @classmethod
    def beside(cls, wasm: Path, config: Path | None = None, name: str | None = None) -> PluginFiles:
        if name is None:
            name = wasm.absolute().parent.name if wasm.name == "plugin.wasm" else wasm.stem
        return cls(name, wasm, config or wasm.with_name("config.json"), wasm.with_name("manifest.json"))


@dataclass(frozen=True, slots=True)
class _Started:
    """A worker that has loaded the module and said who it is."""

    files: PluginFiles
    manifest: Manifest
    worker: Worker
    sha256: str


def scan(plugins_dir: Path) -> list[PluginFiles]:
    """Every subfolder with a ``plugin.wasm``, sorted by name; others are skipped. Raises SetupError."""
    try:
        folders = sorted(entry.name for entry in os.scandir(plugins_dir) if entry.is_dir())
    except OSError as error:
        raise SetupError(
            f"cannot read the plugins folder {plugins_dir}: {reason(error)}; make it, or name another"
        ) from error
    found = [PluginFiles.beside(plugins_dir / name / "plugin.wasm", name=name) for name in folders]
    return [files for files in found if os.path.lexists(files.wasm)]


class Loader:
    """Starts workers, for the first time and for every restart after."""

    def __init__(
        self,
        launcher: Launcher,
        runner: CallRunner,
        table: PluginTable,
        services: Services,
        book: LeaseBook,
        config: Config,
    ) -> None:
        self._launcher = launcher
        self._runner = runner
        self._table = table
        self._services = services
        self._book = book
        self._config = config
        self._nobody = for_nobody(services)
        self._unloaded = threading.Condition()  # taken before the table's lock, never after
        self._unloading: set[str] = set()

    def load_all(self, plugins_dir: Path) -> dict[str, PluginError]:
        """Load every plugin of the folder; the answer has those that failed, by folder name. Raises SetupError."""
        candidates = scan(plugins_dir)
        if not candidates:
            return {}
        errors: dict[str, PluginError] = {}
        with _threads(min(_PARALLEL_STARTS, len(candidates)), "isoplug-load") as threads:
            started = list(threads.map(_outcome(self._start_unknown), candidates))
        admitted = []
        for files, outcome in zip(candidates, started, strict=True):
            if isinstance(outcome, _Started):
                outcome = _outcome(self._admit)(outcome)
            if isinstance(outcome, PluginError):
                errors[files.name] = outcome
            else:
                admitted.append(outcome)
        if admitted:
            # A thread each: an ``init`` may wait for another plugin, which must not wait for a thread.
            with _threads(len(admitted), "isoplug-init") as threads:
                for entry, outcome in zip(admitted, threads.map(_outcome(self._prepare_first), admitted), strict=True):
                    if isinstance(outcome, PluginError):
                        errors[entry[0].files.name] = outcome
        for name, error in errors.items():
            _log.error("plugin.load_failed", plugin=name, code=error.code, reason=str(error))
        return errors

    def load_one(self, files: PluginFiles) -> Plugin:
        """Load one module outside a scan. Raises PluginError."""
        return self._prepare_first(self._admit(self._start_unknown(files)))

    @contextmanager
    def unloading(self, plugin: Plugin) -> Iterator[None]:
        """Take the plugin out of the table. Nobody loads another one with its id before the block has ended: services
        know plugins by their ids, and would take the one for the other. Raises PluginNotFound when it is no longer
        there."""
        with self._unloaded:
            if self._table.get(plugin.id) is not plugin:
                raise PluginNotFound(plugin.id)
            self._table.remove(plugin.id)
            self._unloading.add(plugin.id)
        try:
            yield
        finally:
            with self._unloaded:
                self._unloading.remove(plugin.id)
                self._unloaded.notify_all()

    def inspect(self, wasm: Path) -> Manifest:
        """The module's own manifest; nothing is cached, everything is denied. Raises PluginError."""
        started = self._start_unknown(PluginFiles.beside(wasm), use_cache=False)
        started.worker.end()
        return started.manifest

    def let_go(self) -> None:
        """In a fork of the host: see ``Launcher.let_go``."""
        self._launcher.let_go()

    # --- passes ---------------------------------------------------------------------------------------------------

    def _start_unknown(self, files: PluginFiles, *, use_cache: bool = True) -> _Started:
        if isinstance(self._services.filesystem, GuardedFilesystem):  # before it is read, or it could be changed after
            for path in (files.wasm, files.config, files.manifest):
                self._services.filesystem.close_to_writes(path)
        wasm = self._read_module(files)
        deadline = Deadline.after(self._config.calls.start_timeout)
        worker = self._launcher.launch(wasm, files.name, deadline)
        try:
            frame = Frame(Chain(self._book), deadline)
            manifest = self._manifest(worker, files, frame, use_cache=use_cache)
        except BaseException:
            worker.end()
            raise
        return _Started(files, manifest, worker, hashlib.sha256(wasm).hexdigest())

    def _admit(self, started: _Started) -> tuple[_Started, Plugin, Chain]:
        files, manifest = started.files, started.manifest
        try:
            check_compatible(manifest, self._config.app_version)
            chain = Chain(self._book)
            pool = self._pool(started)
            pool.reserve(chain)
            plugin = Plugin(manifest, files.wasm, files.config, pool)
            self._add(plugin)
            self._services.websockets.admit(SocketGuest(self._runner, self._services, plugin))
        except BaseException:
            started.worker.end()
            raise
        for capability in manifest.unknown_capabilities:
            _log.warning("plugin.unknown_capability", plugin=plugin.id, capability=capability)
        return started, plugin, chain

    def _prepare_first(self, admitted: tuple[_Started, Plugin, Chain]) -> Plugin:
        started, plugin, chain = admitted
        try:
            frame = Frame(chain, Deadline.after(self._config.calls.start_timeout))
            self._prepare(started.worker, plugin.id, started.files.config, frame)
        except BaseException:
            started.worker.end()
            # Somebody may have unloaded it meanwhile; otherwise it may have connected before it failed.
            with suppress(PluginNotFound), self.unloading(plugin):
                self._services.websockets.dismiss(plugin.id)
            plugin.pool.abandon()
            raise
        plugin.pool.adopt(started.worker)
        _log.info("plugin.loaded", plugin=plugin.id, version=plugin.manifest.version, pid=started.worker.pid)
        return plugin

    def _add(self, plugin: Plugin) -> None:
        with self._unloaded:
            if not self._unloaded.wait_for(lambda: plugin.id not in self._unloading, self._config.calls.start_timeout):
                raise LoadError(
                    f"plugin {plugin.id!r} is still being unloaded; load it when that has ended", plugin_id=plugin.id
                )
            self._table.add(plugin)

    # --- one worker -----------------------------------------------------------------------------------------------

    def _pool(self, started: _Started) -> Pool:
        def start(chain: Chain, deadline: Deadline, depth: int) -> Worker:
            return self._start_again(started.files, started.manifest.id, started.sha256, Frame(chain, deadline, depth))

        return Pool(
            started.manifest.id,
            start,
            self._book,
            RestartBudget(RestartPolicy.of(self._config.restart)),
            start_timeout_seconds=self._config.calls.start_timeout,
            max_extra_instances=self._config.calls.max_extra_instances,
            on_restarted=lambda: self._services.websockets.greet(started.manifest.id),
        )

    def _start_again(self, files: PluginFiles, plugin_id: str, sha256: str, frame: Frame) -> Worker:
        """The same module once more: one that was changed on disk since is another plugin, with this one's rights."""
        wasm = self._read_module(files)
        if hashlib.sha256(wasm).hexdigest() != sha256:
            raise LoadError(
                f"{files.wasm} was changed since plugin {plugin_id!r} was loaded; unload and load it again",
                plugin_id=plugin_id,
            )
        worker = self._launcher.launch(wasm, plugin_id, frame.deadline)
        try:
            self._prepare(worker, plugin_id, files.config, frame)
        except BaseException:
            worker.end()
            raise
        return worker

    def _prepare(self, worker: Worker, plugin_id: str, config_path: Path, frame: Frame) -> None:
        """``set_config`` and ``init``. An error that the guest reports in one of them is logged and does not keep the
        other away: the reference host ignores it, and so do guests that are written for it. A trap or a crash is
        raised."""
        config = read_config(config_path, plugin_id)
        if config:
            try:
                self.apply_config(
                    plugin_id,
                    config_path,
                    lambda data: self._call_first(worker, plugin_id, "set_config", data, frame),
                    config,
                )
            except (CommandError, ConfigError) as error:  # ConfigError: what it corrected could not be written
                _log.warning("plugin.config_refused", plugin=plugin_id, reason=str(error))
        workspace = self._services.workspace
        start = {"workspace_root": None if workspace is None else str(workspace)}
        try:
            self._call_first(worker, plugin_id, "init", to_bytes(start, "workspace_root"), frame)
        except CommandError as error:
            _log.warning("plugin.init_refused", plugin=plugin_id, reason=str(error))

    def _call_first(self, worker: Worker, plugin_id: str, export: str, data: bytes, frame: Frame) -> bytes:
        try:
            return self._runner.call_starting(worker, plugin_id, export, data, frame)
        except CommandNotFound:
            return b""

    def apply_config(
        self, plugin_id: str, config_path: Path, send: Callable[[bytes], bytes], config: dict[str, Any]
    ) -> None:
        """Give the guest its configuration; what it answers may hold a corrected one, which is persisted, and requests
        for the host, which go to the event sink (SPEC section 3)."""
        output = send(to_bytes(config, "config"))
        if not output:
            return
        answer = parse_json(plugin_id, output)
        if not isinstance(answer, dict):
            return
        if isinstance(answer.get("config"), dict) and answer["config"] != config:
            write_config(config_path, answer["config"], plugin_id)
        for key in ("permission_request", "migrations"):
            if answer.get(key):
                self._services.emit(plugin_id, json.dumps({"type": key, key: answer[key]}, ensure_ascii=False))

    def _manifest(self, worker: Worker, files: PluginFiles, frame: Frame, *, use_cache: bool) -> Manifest:
        """The guest is always asked, so that a cache can never give it another's id; a fresh cache that agrees on the
        id is what counts for everything else."""
        try:
            output = self._runner.call_starting(worker, files.name, "manifest", b"", frame, self._nobody)
        except CommandNotFound as error:
            raise LoadError(
                f"plugin {files.name!r} exports no function 'manifest', which every plugin needs; is this a plugin?",
                plugin_id=files.name,
            ) from error
        except CommandError as error:
            raise LoadError(
                f"plugin {files.name!r} does not tell its manifest: {error}", plugin_id=files.name
            ) from error
        own = parse_manifest(output, files.name)
        if not use_cache:
            return own
        cached = read_cached(files.manifest, files.wasm)
        if cached is not None and cached.id == own.id:
            return cached
        write_cached(files.manifest, own)
        return own

    def _read_module(self, files: PluginFiles) -> bytes:
        try:
            wasm = read_bounded(files.wasm, self._config.limits.wasm_module)
        except (OSError, ValueError) as error:
            raise LoadError(
                f"cannot read {files.wasm}: {reason(error)}; check its path", plugin_id=files.name
            ) from error
        if wasm[:4] != _MAGIC:
            raise LoadError(
                f"{files.wasm} is not a WebAssembly module; build or download it again", plugin_id=files.name
            )
        if wasm[4:8] != _CORE_MODULE:
            raise LoadError(
                f"{files.wasm} is not a core WebAssembly module of version 1 (a component, perhaps); build it for "
                "wasm32-unknown-unknown or wasm32-wasip1",
                plugin_id=files.name,
            )
        return wasm


@contextmanager
def _threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Raises SetupError when the machine or, at its end, the interpreter starts no more threads."""
    try:
        with ThreadPoolExecutor(count, name) as threads:
            yield threads
    except RuntimeError as error:
        raise SetupError(
            f"cannot start the threads that load plugins: {error}; free processes, and start a Supervisor before the "
            "interpreter shuts down"
        ) from error


def _outcome(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``step``, with a PluginError as answer instead of raised: what fails must not stop the others."""

    def run(argument: Any) -> Any:
        try:
            return step(argument)
        except PluginError as error:
            return error

    return run
