"""One worker, from a module's bytes to a guest that is ready for calls, and its farewell (SPEC sections 2 and 3)."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoplug.shared.errors import (
    CommandError,
    CommandNotFound,
    ConfigError,
    LoadError,
    PluginError,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.shared.lockdown import Protection
from isoplug.supervisor.calls import CallRunner, Frame
from isoplug.supervisor.calls.commands import parse_json, to_bytes
from isoplug.supervisor.config import Config, Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.files import reason
from isoplug.supervisor.host import Services, for_nobody
from isoplug.supervisor.integrity import IntegrityPolicy, checksum_file, sha256_of, signature_file
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.known import KnownManifests
from isoplug.supervisor.plugins.manifest import Manifest, parse_manifest, read_cached, write_cached
from isoplug.supervisor.plugins.module import Module, Stamp, read_stable
from isoplug.supervisor.plugins.sidecar import read_config, write_config
from isoplug.supervisor.pool import Launcher, Worker
from isoplug.supervisor.workspace import GuardedFilesystem

__all__ = ["Source", "Started", "Starter"]

_log = get_logger(__name__)

_MAGIC = b"\0asm"
_CORE_MODULE = b"\x01\0\0\0"


@dataclass(frozen=True, slots=True)
class Source:
    """A module as it was read from its file."""

    files: PluginFiles
    wasm: bytes
    stamp: Stamp
    sha256: str


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that has loaded the module and said who it is. Whoever has it ends it or gives it to a pool. None for a
    plugin that is loaded asleep: its module said so earlier."""

    files: PluginFiles
    manifest: Manifest
    module: Module
    worker: Worker | None

    def discard(self) -> None:
        if self.worker is not None:
            self.worker.end()
        self.module.close()


class Starter:
    """Thread-safe. ``copies`` is the folder of the disk where loaded modules are kept."""

    def __init__(
        self,
        launcher: Launcher,
        runner: CallRunner,
        services: Services,
        config: Config,
        integrity: IntegrityPolicy,
        copies: Path,
        known: KnownManifests,
    ) -> None:
        self._launcher = launcher
        self._runner = runner
        self._services = services
        self._config = config
        self._integrity = integrity
        self._copies = copies
        self._known = known
        self._nobody = for_nobody(services)

    # --- the first worker of a module -----------------------------------------------------------------------------

    def read(self, files: PluginFiles) -> Source:
        """Raises LoadError for what is no module, or not one that may be loaded, and while somebody writes to it."""
        if isinstance(self._services.filesystem, GuardedFilesystem):  # before it is read, or it could be changed after
            beside = (checksum_file(files.wasm), signature_file(files.wasm))
            for path in (files.wasm, files.config, files.manifest, *beside):
                self._services.filesystem.close_to_writes(path)
        try:
            wasm, stamp = read_stable(files.wasm, self._config.limits.wasm_module)
        except (OSError, ValueError) as error:
            is_too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
            advice = "raise limits.wasm_module, or build a smaller one" if is_too_large else "check its path"
            raise LoadError(f"cannot read {files.wasm}: {reason(error)}; {advice}", plugin_id=files.name) from error
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
        sha256 = sha256_of(wasm)
        self._integrity.check(files.wasm, files.name, sha256)
        return Source(files, wasm, stamp, sha256)

    def start(self, source: Source, *, is_upgrade: bool = False) -> Started:
        """Raises PluginError. Without a worker when the plugin is to be loaded asleep, which an upgrade never is.

        The cached manifest of an upgrade may be that of the version before, so it does not count, however new it looks:
        files keep their times when they are copied or unpacked.
        """
        files = source.files
        known = None if is_upgrade else self._known.recall(files.wasm, source.sha256)
        if known is not None and self._is_loaded_asleep(known.id):
            self._integrity.check_pin(files.wasm, files.name, known.id, source.sha256)
            return Started(files, self._current_manifest(files, known), self._unopened(source, known.id), None)
        module, worker, own = self._introduce(source)
        if self._is_loaded_asleep(own.id):
            self._known.remember(files.wasm, source.sha256, own)
            if not is_upgrade:
                worker.end()
                module.close()
                return Started(files, self._current_manifest(files, own), self._unopened(source, own.id), None)
        manifest = self._current_manifest(files, own, is_upgrade=is_upgrade)
        return Started(files, manifest, module, worker)

    def _current_manifest(self, files: PluginFiles, own: Manifest, *, is_upgrade: bool = False) -> Manifest:
        """The cached one, if it is of use, else the module's own, which is cached then."""
        cached = None if is_upgrade else read_cached(files.manifest, files.wasm)
        if cached is not None and cached.id == own.id:  # a cache must never give a plugin another's id
            return cached
        write_cached(files.manifest, own)
        return own

    def inspect(self, files: PluginFiles) -> Manifest:
        """The module's own manifest; nothing is kept. Raises PluginError."""
        module, worker, manifest = self._introduce(self.read(files))
        worker.end()
        module.close()
        return manifest

    # --- every worker ---------------------------------------------------------------------------------------------

    def start_again(self, module: Module, plugin_id: str, config_path: Path, frame: Frame) -> Worker:
        """Another worker of what was loaded, prepared. Raises PluginError."""
        worker = self._launch(module, plugin_id, frame)
        try:
            self.prepare(worker, plugin_id, config_path, frame)
        except BaseException:
            worker.end()
            raise
        return worker

    def prepare(self, worker: Worker, plugin_id: str, config_path: Path, frame: Frame) -> dict[str, Any] | None:
        """``set_config`` and ``init``; the configuration that counts now. An error that the guest reports in one of
        them is logged and does not keep the other away: the reference host ignores it, and so do guests that are
        written for it. A trap or a crash is raised."""
        config = read_config(config_path, plugin_id)
        if config:
            config = self.configure(worker, plugin_id, config_path, config, frame)
        workspace = self._services.workspace
        start = {"workspace_root": None if workspace is None else str(workspace)}
        try:
            self._call(worker, plugin_id, "init", to_bytes(start, "workspace_root"), frame)
        except CommandError as error:
            _log.warning("plugin.init_refused", plugin=plugin_id, reason=str(error))
        return config

    def configure(
        self, worker: Worker, plugin_id: str, config_path: Path, config: dict[str, Any], frame: Frame
    ) -> dict[str, Any]:
        """``set_config`` in a worker that no pool has yet; see ``apply_config``."""
        try:
            return self.apply_config(
                plugin_id,
                config_path,
                lambda data: self._call(worker, plugin_id, "set_config", data, frame),
                config,
                frame,
            )
        except (CommandError, ConfigError) as error:  # ConfigError: what it corrected could not be written
            _log.warning("plugin.config_refused", plugin=plugin_id, reason=str(error))
            return config

    def apply_config(
        self,
        plugin_id: str,
        config_path: Path,
        send: Callable[[bytes], bytes],
        config: dict[str, Any],
        frame: Frame,
    ) -> dict[str, Any]:
        """Give the guest its configuration; what it answers may hold a corrected one, which is persisted and returned,
        and requests for the host, which go to the event sink (SPEC section 3)."""
        output = send(to_bytes(config, "config"))
        answer = parse_json(plugin_id, output) if output else None
        if not isinstance(answer, dict):
            return config
        for key in ("permission_request", "migrations"):
            if answer.get(key):
                event = json.dumps({"type": key, key: answer[key]}, ensure_ascii=False)
                self._runner.emit(plugin_id, event, frame)
        corrected = answer.get("config")
        if not isinstance(corrected, dict) or corrected == config:
            return config
        write_config(config_path, corrected, plugin_id)
        return corrected

    def farewell(self, plugin_id: str, worker: Worker, deadline: Deadline) -> None:
        """``shutdown``, for a worker that is going to end whatever it says. A version that is replaced has all the time
        for its calls, and no more than any other for this."""
        seconds = min(deadline.remaining_seconds(), self._config.calls.shutdown_timeout)
        frame = Frame(self._runner.new_chain(), Deadline.within(seconds))
        try:
            self._call(worker, plugin_id, "shutdown", b"{}", frame)
        except SupervisorClosed:  # closed at once, without a word
            pass
        except PluginError as error:
            _log.warning("plugin.shutdown_failed", plugin=plugin_id, reason=str(error))

    @property
    def protection(self) -> Protection | None:
        return self._launcher.protection

    def let_go(self) -> None:
        """In a fork of the host: see ``Launcher.let_go``."""
        self._launcher.let_go()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _is_loaded_asleep(self, plugin_id: str) -> bool:
        return self._config.of_plugin(plugin_id).sleep.at_load

    def _unopened(self, source: Source, plugin_id: str) -> Module:
        """Nothing is read before somebody calls the plugin."""
        return self._module(source, self._limits_of(plugin_id))

    def _module(self, source: Source, limits: Limits) -> Module:
        files = source.files
        return Module(source.sha256, files.wasm, source.stamp, self._copies, self._launcher, files.name, limits)

    def _introduce(self, source: Source) -> tuple[Module, Worker, Manifest]:
        """A worker, and what it says of itself. Its limits are those of the id that it has; until that is known, of the
        one that is expected, and it is started again when it turns out to have others."""
        deadline = Deadline.after(self._config.calls.start_timeout)
        expected = read_cached(source.files.manifest, source.files.wasm)
        limits = self._limits_of(source.files.name if expected is None else expected.id)
        module, worker, manifest = self._introduce_within(limits, source, deadline)
        own_limits = self._limits_of(manifest.id)
        if own_limits == limits:
            return module, worker, manifest
        worker.end()
        module.close()
        module, worker, again = self._introduce_within(own_limits, source, deadline)
        if again.id != manifest.id:
            worker.end()
            module.close()
            raise LoadError(
                f"plugin {source.files.name!r} says that it is {manifest.id!r}, then {again.id!r}; it must have one id",
                plugin_id=source.files.name,
            )
        return module, worker, again

    def _introduce_within(self, limits: Limits, source: Source, deadline: Deadline) -> tuple[Module, Worker, Manifest]:
        module = self._module(source, limits)
        with ExitStack() as undoing:
            undoing.callback(module.close)
            module.keep(source.wasm)
            frame = Frame(self._runner.new_chain(), deadline)
            worker = self._launch(module, source.files.name, frame)
            undoing.callback(worker.end)
            manifest = self._ask_manifest(worker, source.files.name, frame)
            self._integrity.check_pin(source.files.wasm, source.files.name, manifest.id, source.sha256)
            undoing.pop_all()
        return module, worker, manifest

    def _launch(self, module: Module, plugin_id: str, frame: Frame) -> Worker:
        try:
            return self._launcher.launch(module.template, frame.deadline)
        except WorkerCrashed as crash:
            self._runner.report(crash, plugin_id, "", "its start", frame, None)
            raise

    def _limits_of(self, plugin_id: str) -> Limits:
        return self._config.of_plugin(plugin_id).limits

    def _ask_manifest(self, worker: Worker, name: str, frame: Frame) -> Manifest:
        try:
            output = self._runner.call_starting(worker, name, "manifest", b"", frame, self._nobody)
        except CommandNotFound as error:
            raise LoadError(
                f"plugin {name!r} exports no function 'manifest', which every plugin needs; is this a plugin?",
                plugin_id=name,
            ) from error
        except CommandError as error:
            raise LoadError(f"plugin {name!r} does not tell its manifest: {error}", plugin_id=name) from error
        return parse_manifest(output, name)

    def _call(self, worker: Worker, plugin_id: str, export: str, data: bytes, frame: Frame) -> bytes:
        try:
            return self._runner.call_starting(worker, plugin_id, export, data, frame)
        except CommandNotFound:
            return b""
