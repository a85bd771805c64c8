"""The façade: one object that a host makes, uses from any thread, and closes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeAlias

from isoplug.shared.errors import (
    CommandError,
    CommandNotFound,
    ConfigError,
    InvalidArgument,
    PluginError,
    SupervisorClosed,
)
from isoplug.supervisor.assembly import (
    OwnServices,
    build_services,
    configured,
    engine,
    existing_folder,
    runtime_folder,
)
from isoplug.supervisor.calls import Frame
from isoplug.supervisor.calls.commands import parse_json
from isoplug.supervisor.config import Config, load_config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.events import Mailbox, encode_event
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.host import EventSink, FileSource, RuntimeContext
from isoplug.supervisor.loader import PluginFiles
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.namespaces import NamespaceProvider
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.permissions import Checker
from isoplug.supervisor.plugins.sidecar import read_config, write_config
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.pool import Chain, Worker
from isoplug.supervisor.secrets import Secrets
from isoplug.supervisor.storage import Storage
from isoplug.supervisor.websockets import WebSockets
from isoplug.supervisor.workspace import FileSystem

__all__ = ["OfferedFiles", "Supervisor"]

_log = get_logger(__name__)

_alive: weakref.WeakSet[Supervisor] = weakref.WeakSet()


def _forget_all_in_fork() -> None:
    for supervisor in tuple(_alive):
        supervisor._forget()


# A fork of the host (``multiprocessing``) inherits the object and its descriptors, not what they are for.
os.register_at_fork(after_in_child=_forget_all_in_fork)

#: Of an export's name. The names that hosts call have a dozen.
_EXPORT_CHARACTERS = 200

#: Files offered with one call: key → content, or a path that is read when the call begins.
OfferedFiles: TypeAlias = Mapping[str, "bytes | str | os.PathLike[str]"]


class Supervisor:
    """Loads every plugin of a folder, each into a process of its own, and calls them.

    Args:
        plugins_dir: the folder with one folder per plugin; None loads nothing (``load_plugin`` still works).
        workspace: the folder that guests see as far as their rules allow; None: no workspace.
        state_dir: where storage, secrets and namespaces live; by default a private folder per workspace under the
            user's data directory.
        root_index: the file, relative to the workspace, whose front matter grants permissions; found by default.
        app_version: what a plugin's ``min_app_version`` is compared with.
        call_timeout: seconds a call may take when the caller says nothing.
        config: everything else; the arguments above win over it.
        filesystem, storage, secrets, permissions, events, files, runtime_context, http, namespaces, websockets: a
            host's own services.

    Raises:
        SetupError: this machine, a folder, the state or the configuration does not allow it; the text says what to do.

    Plugins that fail to load do not raise; see ``load_errors``. All methods may be called from any thread; a call runs
    in its caller's thread and raises the errors of SPEC section 11. Use it as a context manager, or call ``close``.
    """

    def __init__(
        self,
        plugins_dir: str | os.PathLike[str] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        root_index: str | os.PathLike[str] | None = None,
        app_version: str | None = None,
        call_timeout: float | None = None,
        config: Config | None = None,
        filesystem: FileSystem | None = None,
        storage: Storage | None = None,
        secrets: Secrets | None = None,
        permissions: Checker | None = None,
        events: EventSink | None = None,
        files: FileSource | None = None,
        runtime_context: RuntimeContext | None = None,
        http: HttpClient | None = None,
        namespaces: NamespaceProvider | None = None,
        websockets: WebSockets | None = None,
    ) -> None:
        check_platform()
        self._config = configured(
            config or Config(),
            plugins_dir=plugins_dir,
            workspace=workspace,
            state_dir=state_dir,
            root_index=root_index,
            app_version=app_version,
            call_timeout=call_timeout,
        )
        self._closing = threading.RLock()  # held while closing; a signal handler may close in the midst of it
        self._is_closed = False
        self._mailboxes: dict[str, Mailbox[bytes]] = {}
        own = OwnServices(
            filesystem=filesystem,
            storage=storage,
            secrets=secrets,
            permissions=permissions,
            events=events,
            files=files,
            runtime_context=runtime_context,
            http=http,
            namespaces=namespaces,
            websockets=websockets,
        )
        with ExitStack() as cleanup:
            folder = existing_folder(self._config.workspace, "workspace")
            plugins = existing_folder(self._config.plugins_dir, "plugins_dir")
            runtime = runtime_folder(cleanup)
            self._services = build_services(self._config, own, folder, plugins, runtime, cleanup)
            self._table = PluginTable()
            self._runner, self._loader = engine(self._config, runtime, self._services, self._table, cleanup)
            _alive.add(self)
            cleanup.callback(self._end_plugins)
            self._load_errors = {} if plugins is None else self._loader.load_all(plugins)
            for plugin in self._table.snapshot().values():
                self._add_mailbox(plugin)
            self._cleanup = cleanup.pop_all()

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """A supervisor as ``path`` (TOML, see ``configs/default.toml``) describes; ``overrides`` are arguments of the
        constructor. Raises SetupError that names file and key."""
        return cls(config=load_config(Path(path)), **overrides)

    # --- what is loaded -------------------------------------------------------------------------------------------

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """The loaded plugins by id: ``id``, ``manifest``, ``status``."""
        return MappingProxyType(dict(self._table.snapshot()))

    @property
    def load_errors(self) -> Mapping[str, PluginError]:
        """What could not be loaded, by folder name."""
        return MappingProxyType(self._load_errors)

    def load_plugin(
        self, wasm_path: str | os.PathLike[str], config_path: str | os.PathLike[str] | None = None
    ) -> Plugin:
        """Load one module outside a scan, with its sidecars beside it. Raises LoadError and the errors of a call."""
        with self._runner.open_frame(self._runner.deadline(None)):  # closing waits for it, and refuses it afterwards
            files = PluginFiles.beside(Path(wasm_path), None if config_path is None else Path(config_path))
            plugin = self._loader.load_one(files)
            self._add_mailbox(plugin)
            if self._is_closed:  # closing did not wait so long, and may have looked for plugins before this was one
                self._part_with(plugin)
                raise SupervisorClosed(plugin.id)
            return plugin

    def unload(self, plugin_id: str) -> None:
        """Let the plugin's call in progress finish (at most ``calls.shutdown_timeout``), send ``shutdown``, end its
        worker. Raises PluginNotFound."""
        plugin = self._plugin(plugin_id)
        with self._loader.unloading(plugin):
            mailbox = self._mailboxes.pop(plugin_id, None)
            if mailbox is not None:  # there is none yet while the plugin is being loaded
                mailbox.close()
            self._part_with(plugin)

    # --- calls ----------------------------------------------------------------------------------------------------

    def command(
        self,
        plugin_id: str,
        command: str,
        params: Any = None,
        *,
        timeout: float | None = None,
        files: OfferedFiles | None = None,
    ) -> Any:
        """Run a declared command; its JSON ``data``.

        Args:
            params: anything JSON.
            timeout: seconds for this call and everything it causes.
            files: what the plugin may fetch with ``host_request_file`` during this call.

        Raises:
            PluginNotFound, CommandNotFound, InvalidArgument: nothing was sent.
            CommandError, PermissionDenied, ConfigError: the guest's own answer.
            GuestTrap, CallTimeout, WorkerCrashed, ResourceLimitExceeded: the call is lost, the worker replaced.
            PluginQuarantined, SupervisorClosed: not now.
        """
        return self.command_in(None, self._runner.deadline(timeout), plugin_id, command, params, files)

    def call(
        self,
        plugin_id: str,
        export: str,
        data: bytes = b"",
        *,
        timeout: float | None = None,
        files: OfferedFiles | None = None,
    ) -> bytes:
        """Call any export with bytes; bytes come back. Raises as ``command``; a missing export is CommandNotFound."""
        return self.call_in(None, self._runner.deadline(timeout), plugin_id, export, data, files)

    def command_in(
        self,
        chain: Chain | None,
        deadline: Deadline,
        plugin_id: str,
        command: str,
        params: Any,
        files: OfferedFiles | None,
    ) -> Any:
        """``command`` for ``aio``, which makes the chain and the deadline before a thread is free."""
        plugin = self._plugin(plugin_id)
        with self._runner.open_frame(deadline, self._read_offers(files), chain) as frame:
            return self._runner.command(plugin, command, params, frame)

    def call_in(
        self,
        chain: Chain | None,
        deadline: Deadline,
        plugin_id: str,
        export: str,
        data: bytes,
        files: OfferedFiles | None,
    ) -> bytes:
        """``call`` for ``aio``."""
        plugin = self._plugin(plugin_id)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"data must be bytes, not {type(data).__name__}; encode text first")
        # Not printable: NUL, at which Extism ends a name, and lone surrogates, which have no bytes.
        if not isinstance(export, str) or not 0 < len(export) <= _EXPORT_CHARACTERS or not export.isprintable():
            raise InvalidArgument("export must be the name of a function that the guest exports")
        with self._runner.open_frame(deadline, self._read_offers(files), chain) as frame:
            return self._runner.call(plugin, export, bytes(data), frame)

    def cancel(self, plugin_id: str, token: str) -> None:
        """``host_is_cancelled`` answers true for this token from now on. Raises PluginNotFound."""
        self._plugin(plugin_id)
        self._table.cancel_token(plugin_id, token)

    @property
    def async_threads(self) -> int:
        """For ``aio``: how many calls may run at once."""
        return self._config.calls.async_threads

    def new_chain(self) -> Chain:
        """For ``aio``: a handle to cancel a call by, from another thread."""
        return self._runner.new_chain()

    def deadline(self, timeout: float | None) -> Deadline:
        """For ``aio``: the deadline of a call that begins now."""
        return self._runner.deadline(timeout)

    # --- events ---------------------------------------------------------------------------------------------------

    def emit(self, event_type: str, payload: Mapping[str, Any] | None = None) -> int:
        """Queue an event for every plugin with the capability for it and return how many took it; never waits for one.

        ``workspace_root`` of workspace events is filled in when missing. Raises InvalidArgument, SupervisorClosed.
        """
        if self._is_closed:
            raise SupervisorClosed
        if payload is not None and not isinstance(payload, Mapping):
            raise InvalidArgument(f"the payload of an event must be a mapping, not {type(payload).__name__}")
        payload = dict(payload or {})
        if isinstance(event_type, str) and event_type.startswith("workspace_"):
            payload.setdefault("workspace_root", self._workspace_text())
        capability, event = encode_event(event_type, payload)
        receivers = [p.id for p in self._table.snapshot().values() if capability in p.manifest.capabilities]
        mailboxes = [self._mailboxes.get(plugin_id) for plugin_id in receivers]  # none: loading, or just unloaded
        return sum(mailbox.post(event) for mailbox in mailboxes if mailbox is not None)

    def flush_events(self, timeout: float | None = None) -> bool:
        """Wait until all events emitted so far have been handled; False when that takes longer than ``timeout``."""
        deadline = self._runner.deadline(timeout)
        if self._is_closed:
            raise SupervisorClosed
        return all(mailbox.flush(deadline) for mailbox in tuple(self._mailboxes.values()))

    # --- configuration --------------------------------------------------------------------------------------------

    def get_config(self, plugin_id: str) -> Any:
        """The guest's own answer when it exports ``get_config``, else its sidecar; ``{}`` when there is neither."""
        plugin = self._plugin(plugin_id)
        with self._runner.open_frame(self._runner.deadline(None)) as frame:
            try:
                return parse_json(plugin_id, self._runner.call(plugin, "get_config", b"", frame))
            except CommandNotFound:
                return read_config(plugin.config_path, plugin_id) or {}

    def set_config(self, plugin_id: str, config: dict[str, Any]) -> None:
        """Write the sidecar, then tell the guest. Raises ConfigError when it cannot be written or the guest refuses it
        (it is written all the same, as it is what the person asked for)."""
        plugin = self._plugin(plugin_id)
        if not isinstance(config, dict):
            raise InvalidArgument(f"config must be a dict, not {type(config).__name__}")
        with self._runner.open_frame(self._runner.deadline(None)) as frame, plugin.config_lock:
            write_config(plugin.config_path, config, plugin_id)
            try:
                self._loader.apply_config(
                    plugin_id, plugin.config_path, lambda data: self._tell_config(plugin, data, frame), config
                )
            except CommandError as error:
                raise ConfigError(plugin_id, str(error)) from error

    # --- operations -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, PluginStatus]:
        """A snapshot of every plugin, by id."""
        return {plugin_id: plugin.status for plugin_id, plugin in self._table.snapshot().items()}

    def reset(self, plugin_id: str) -> None:
        """Forget the plugin's failures; a quarantined or waiting one is started at once. Raises PluginNotFound."""
        self._plugin(plugin_id).pool.reset()

    def close(self) -> None:
        """Drain: refuse new calls, let those in progress finish (at most ``calls.shutdown_timeout``), send guests
        ``shutdown``, end all processes. Idempotent; when it returns, in whatever thread, everything has ended."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            deadline = Deadline.after(self._config.calls.shutdown_timeout)
            try:
                for mailbox in tuple(self._mailboxes.values()):
                    mailbox.flush(deadline)
                    mailbox.close()
                self._hush_sockets()
                self._runner.drain(deadline)
            finally:  # a second Ctrl-C ends the waiting, not the cleaning up
                self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """In a fork of the host: count as closed, since the processes belong to the parent, and let go of what would
        keep them alive after the parent's death."""
        if not self._is_closed:
            self._is_closed = True
            self._closing = threading.RLock()  # another thread of the parent may have held it
            self._loader.let_go()
            self._services.wasi.let_go()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _workspace_text(self) -> str | None:
        return None if self._services.workspace is None else str(self._services.workspace)

    def _plugin(self, plugin_id: str) -> Plugin:
        if self._is_closed:
            raise SupervisorClosed(plugin_id)
        return self._table.get(plugin_id)

    def _add_mailbox(self, plugin: Plugin) -> None:
        def deliver(event: bytes) -> None:
            with self._runner.open_frame(self._runner.deadline(None)) as frame:
                try:
                    self._runner.call(plugin, "on_event", event, frame)
                except CommandNotFound:
                    return  # it declares the capability and exports no handler

        self._mailboxes[plugin.id] = Mailbox(plugin.id, deliver, self._config.limits.event_queue)

    def _tell_config(self, plugin: Plugin, data: bytes, frame: Frame) -> bytes:
        try:
            return self._runner.call(plugin, "set_config", data, frame)
        except CommandNotFound:
            return b""

    def _read_offers(self, files: OfferedFiles | None) -> dict[str, bytes]:
        return {key: _offer(key, value, self._config.limits.frame) for key, value in (files or {}).items()}

    def _hush_sockets(self) -> None:
        for plugin_id in self._table.snapshot():
            self._services.websockets.hush(plugin_id)

    def _part_with(self, plugin: Plugin) -> None:
        self._services.websockets.hush(plugin.id)
        try:
            self._end_plugin(plugin, Deadline.after(self._config.calls.shutdown_timeout))
        finally:
            self._services.websockets.dismiss(plugin.id)

    def _end_plugins(self) -> None:
        deadline = Deadline.after(self._config.calls.shutdown_timeout)
        self._hush_sockets()
        try:
            for plugin in self._table.snapshot().values():
                self._end_plugin(plugin, deadline)
        finally:
            self._services.websockets.close()

    def _end_plugin(self, plugin: Plugin, deadline: Deadline) -> None:
        def farewell(worker: Worker) -> None:
            frame = Frame(self._runner.new_chain(), Deadline.after(max(0.1, deadline.remaining_seconds())))
            try:
                self._runner.call_starting(worker, plugin.id, "shutdown", b"{}", frame)
            except CommandNotFound:
                pass
            except PluginError as error:
                _log.warning("plugin.shutdown_failed", plugin=plugin.id, reason=str(error))

        plugin.pool.close(deadline, farewell)


def _offer(key: str, value: bytes | str | os.PathLike[str], bound_bytes: int) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
    elif not isinstance(value, (str, os.PathLike)):
        raise InvalidArgument(f"the file offered as {key!r} must be bytes or a path, not {type(value).__name__}")
    else:
        try:
            content = read_bounded(Path(value), bound_bytes)
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"the file offered as {key!r} cannot be read: {reason(error)}") from error
    if len(content) > bound_bytes:
        raise InvalidArgument(f"the file offered as {key!r} has {len(content)} bytes, the limit is {bound_bytes}")
    return content
