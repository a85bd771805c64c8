"""The façade: one object that a host makes, uses from any thread, and closes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeAlias

from isoplug.shared.errors import (
    CommandError,
    CommandNotFound,
    ConfigError,
    InvalidArgument,
    LoadError,
    PluginError,
    PluginQuarantined,
    SetupError,
    SupervisorClosed,
)
from isoplug.shared.lockdown import Protection
from isoplug.shared.record import CallRecord
from isoplug.supervisor.assembly import (
    OwnServices,
    build_observers,
    build_services,
    engine,
    existing_folder,
    module_folder,
)
from isoplug.supervisor.calls import CallOptions, Cancellation, Frame, Interceptor, Poisoned, Steps, finish
from isoplug.supervisor.calls.commands import parse_json
from isoplug.supervisor.config import Config, configured, load_config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.events import Mailbox, Paused, encode_event
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.head_start import HeadStart
from isoplug.supervisor.host import EventSink, FileSource, RuntimeContext
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.namespaces import NamespaceProvider
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.permissions import Checker
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.sidecar import read_config, write_config
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.pool import State
from isoplug.supervisor.reload import Handlers, OnProgress, Reloader, ReloadReport
from isoplug.supervisor.runtime_folder import make_runtime_folder
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
        interceptors: stand around every call of a worker, the first one outermost: fault injection
            (``isoplug.supervisor.chaos``), or a host's own. See ``isoplug.supervisor.calls.Interceptor``. What is
            recorded (``config.record``) is what they leave of a call.
        on_progress: hears how far a load of the plugins folder is, at the start and in ``reload``: a LoadProgress at
            each step, in the thread that loads. It must not wait; what it raises is logged.
        head_start: the first process, started before this module was imported; see ``isoplug.supervisor.head_start``.

    Raises:
        SetupError: this machine, a folder, the state or the configuration does not allow it; the text says what to do.

    Plugins that fail to load do not raise; see ``load_errors``. All methods may be called from any thread; a call runs
    in its caller's thread and raises the errors of SPEC section 11. Not from a signal handler, which may have
    interrupted a thread that holds a lock: raise SystemExit there, as Ctrl-C raises KeyboardInterrupt, and close
    outside. Use it as a context manager, or call ``close``.
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
        interceptors: Sequence[Interceptor] = (),
        on_progress: OnProgress = lambda _: None,
        head_start: HeadStart | None = None,
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
        self._closing = threading.RLock()  # held while closing; reentrant, for signal handlers that close all the same
        self._is_closed = False
        self._closing_seconds = self._config.calls.shutdown_timeout
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
            runtime = cleanup.enter_context(make_runtime_folder()) if head_start is None else head_start.runtime_folder
            self._services = build_services(self._config, own, folder, plugins, runtime, cleanup)
            self._table = PluginTable()
            modules = module_folder(self._config, folder, plugins)
            observers = build_observers(self._config, folder, plugins, interceptors)
            self._runner, self._loader = engine(
                self._config, runtime, modules, self._services, self._table, observers, cleanup, head_start
            )
            _alive.add(self)
            cleanup.callback(self._end_plugins)
            handlers = Handlers(self._add_mailbox, self._resume_mailbox, self._unload, self._apply_sidecar)
            self._reloader = None
            if plugins is not None:
                self._reloader = Reloader(self._loader, self._table, plugins, handlers, on_progress)
                self._reloader.reload(force=False)
                for plugin_id in self._idle_sections():
                    _log.warning(
                        "config.plugin_not_loaded", plugin=plugin_id, advice="its section counts for nobody yet"
                    )
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
    def config(self) -> Config:
        """What it was made with, the constructor's arguments included."""
        return self._config

    @property
    def load_errors(self) -> Mapping[str, PluginError]:
        """What could not be loaded, by folder name."""
        return MappingProxyType({} if self._reloader is None else self._reloader.load_errors)

    @property
    def protection(self) -> Protection | None:
        """The layers of the lock-down that the newest process for a plugin has, and why each of the others is missing
        on this machine. None before the first was started; `isoplug doctor` says what to do about a gap."""
        return self._loader.protection

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
        self._unload(self._plugin(plugin_id))

    def reload(self, *, force: bool = False) -> ReloadReport:
        """Make what is loaded agree with the plugins folder, as it is now.

        New folders are loaded, removed ones unloaded, changed modules take over from their older version, and
        configurations that a person has changed are told to their plugins. What cannot be loaded is in the report and
        disturbs nobody: a plugin whose new version does not start, or crashes on its first calls, goes on with the old
        one. ``force`` tries again what was refused before and has not changed. Plugins from elsewhere
        (``load_plugin``) are left alone. Reloads at the same time are one after the other.

        Raises:
            SetupError: there is no plugins folder, or it cannot be read, or it was taken away; nothing was changed.
            SupervisorClosed: before or meanwhile.
        """
        with self._runner.open_frame(self._runner.deadline(None)):  # closing waits for it, and refuses it afterwards
            if self._reloader is None:
                raise SetupError("there is no plugins folder to reload; make the Supervisor with plugins_dir=")
            report = self._reloader.reload(force=force)
            if self._is_closed:  # see ``load_plugin``
                for plugin in self._table.snapshot().values():
                    self._part_with(plugin)
                raise SupervisorClosed
            return report

    # --- calls ----------------------------------------------------------------------------------------------------

    def command(
        self,
        plugin_id: str,
        command: str,
        params: Any = None,
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """Run a declared command; its JSON ``data``.

        Args:
            params: anything JSON.
            timeout: seconds for this call and everything it causes, retries too; or the instant when it has to be over.
            files: what the plugin may fetch with ``host_request_file`` during this call.
            retries: how often the call is made again, at most, after an error that is ``retryable``: nothing had been
                changed, and the cause may be gone.
            strict: the first refusal by a rule, also in plugins that this one calls, is raised as PermissionDenied,
                whatever the guest makes of it. The call runs to its end all the same.
            record: a new CallRecord, to see afterwards what the call did. Errors have one anyway.
            cancellation: ends the call from another thread.

        Raises:
            PluginNotFound, CommandNotFound, InvalidArgument, PoisonedInput: nothing was sent.
            CommandError, PermissionDenied, ConfigError: the guest's own answer.
            GuestTrap, CallTimeout, WorkerCrashed, CallCancelled, ResourceLimitExceeded: the call is lost, the worker
                replaced. ``error.outcome`` and ``error.record`` say what had been done.
            PluginBusy, PluginQuarantined, SupervisorClosed: not now.
        """
        options = self.call_options(timeout, files, retries, strict, record, cancellation)
        return finish(self.command_in_steps(plugin_id, command, params, options))

    def call(
        self,
        plugin_id: str,
        export: str,
        data: bytes = b"",
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
        cancellation: Cancellation | None = None,
    ) -> bytes:
        """Call any export with bytes; bytes come back. Options and errors as with ``command``; a missing export is
        CommandNotFound."""
        options = self.call_options(timeout, files, retries, strict, record, cancellation)
        return finish(self.call_in_steps(plugin_id, export, data, options))

    def call_options(
        self,
        timeout: float | Deadline | None,
        files: OfferedFiles | None,
        retries: int,
        strict: bool,
        record: CallRecord | None,
        cancellation: Cancellation | None,
        pauses: bool = False,
    ) -> CallOptions:
        """For ``AsyncSupervisor``: what ``command`` may be asked, checked, and its files read. Raises
        InvalidArgument."""
        deadline = self._runner.deadline(timeout)
        return CallOptions(deadline, self._read_offers(files), retries, strict, record, cancellation, pauses)

    def command_in_steps(self, plugin_id: str, command: str, params: Any, options: CallOptions) -> Steps[Any]:
        """For ``AsyncSupervisor``: ``command``, which pauses where ``options`` say so."""
        return self._runner.run(
            options, lambda frame: self._runner.command(self._plugin(plugin_id), command, params, frame)
        )

    def call_in_steps(self, plugin_id: str, export: str, data: bytes, options: CallOptions) -> Steps[bytes]:
        """For ``AsyncSupervisor``: ``call``, which pauses where ``options`` say so."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"data must be bytes, not {type(data).__name__}; encode text first")
        # Not printable: NUL, at which Extism ends a name, and lone surrogates, which have no bytes.
        if not isinstance(export, str) or not 0 < len(export) <= _EXPORT_CHARACTERS or not export.isprintable():
            raise InvalidArgument("export must be the name of a function that the guest exports")
        payload = bytes(data)
        return self._runner.run(
            options, lambda frame: self._runner.call_in_steps(self._plugin(plugin_id), export, payload, frame)
        )

    def cancel(self, plugin_id: str, token: str) -> None:
        """``host_is_cancelled`` answers true for this token from now on. Raises PluginNotFound."""
        self._plugin(plugin_id)
        self._table.cancel_token(plugin_id, token)

    def deadline(self, timeout: float | Deadline | None = None) -> Deadline:
        """The instant by which a call that began now would have to be over; calls take it as ``timeout``."""
        return self._runner.deadline(timeout)

    # --- inputs that are set aside --------------------------------------------------------------------------------

    def poisoned(self, plugin_id: str | None = None) -> list[Poisoned]:
        """The inputs that have killed a worker twice and are set aside, of one plugin or of all. Raises
        PluginNotFound."""
        if plugin_id is not None:
            self._plugin(plugin_id)
        return self._runner.poisons.listed(plugin_id)

    def clear_poisoned(self, plugin_id: str, fingerprint: str | None = None) -> int:
        """Take an input up again, or all of the plugin's; how many had been set aside. ``reset`` leaves them alone: it
        is about the plugin, this about what it was asked. Raises PluginNotFound."""
        self._plugin(plugin_id)
        return self._runner.poisons.clear(plugin_id, fingerprint)

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
        """Wait until all events emitted so far have been handled, but for those of quarantined plugins, which wait for
        a reset; False when there are such, or when it takes longer than ``timeout``."""
        deadline = self._runner.deadline(timeout)
        if self._is_closed:
            raise SupervisorClosed
        are_handled = [mailbox.flush(deadline) for mailbox in tuple(self._mailboxes.values())]
        return all(are_handled)

    # --- configuration --------------------------------------------------------------------------------------------

    def get_config(
        self, plugin_id: str, *, timeout: float | Deadline | None = None, cancellation: Cancellation | None = None
    ) -> Any:
        """The guest's own answer when it exports ``get_config``, else its sidecar; ``{}`` when there is neither."""

        def ask(frame: Frame) -> Steps[Any]:
            plugin = self._plugin(plugin_id)
            try:
                return parse_json(plugin_id, (yield from self._runner.call_in_steps(plugin, "get_config", b"", frame)))
            except CommandNotFound:
                return read_config(plugin.config_path, plugin_id) or {}

        return finish(self._runner.run(CallOptions(self._runner.deadline(timeout), cancellation=cancellation), ask))

    def set_config(
        self,
        plugin_id: str,
        config: dict[str, Any],
        *,
        timeout: float | Deadline | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        """Write the sidecar, then tell the guest. Raises ConfigError when it cannot be written or the guest refuses it
        (it is written all the same, as it is what the person asked for)."""
        if not isinstance(config, dict):
            raise InvalidArgument(f"config must be a dict, not {type(config).__name__}")

        def tell(frame: Frame) -> Steps[None]:
            plugin = self._plugin(plugin_id)
            if frame.pauses:
                yield None
            with plugin.changing_config(frame.deadline):
                write_config(plugin.config_path, config, plugin_id)
                self._tell_config(plugin, config, frame)

        finish(self._runner.run(CallOptions(self._runner.deadline(timeout), cancellation=cancellation), tell))

    # --- operations -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, PluginStatus]:
        """A snapshot of every plugin, by id."""
        return {plugin_id: plugin.status for plugin_id, plugin in self._table.snapshot().items()}

    def reset(self, plugin_id: str) -> None:
        """Forget the plugin's failures; a quarantined or waiting one is started at once, and gets the events that have
        waited for it. Raises PluginNotFound."""
        plugin = self._plugin(plugin_id)
        plugin.pool.reset()
        self._resume_mailbox(plugin)

    def close(self, timeout: float | None = None) -> None:
        """Drain: refuse new calls, let those in progress finish, send guests ``shutdown``, end all processes.
        Idempotent; when it returns, in whatever thread, everything has ended.

        Args:
            timeout: seconds for the calls in progress, and as many for the guests' ``shutdown``; by default
                ``calls.shutdown_timeout``. 0: at once. Calls in progress are ended, guests hear nothing, and a drain
                that another thread has begun is cut short.

        Raises InvalidArgument for a timeout that is none.
        """
        if timeout == 0:
            self._runner.gate.stop()
        with self._closing:
            if self._is_closed:
                return
            seconds = self._config.calls.shutdown_timeout if timeout is None else timeout
            deadline = Deadline.within(seconds)
            self._is_closed, self._closing_seconds = True, seconds
            try:
                for mailbox in tuple(self._mailboxes.values()):
                    mailbox.flush(deadline)
                    mailbox.close()
                self._hush_sockets()
                self._runner.gate.drain(deadline)
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
            try:
                with self._runner.open_frame(self._runner.deadline(None)) as frame:
                    self._runner.call(plugin, "on_event", event, frame)
            except CommandNotFound:
                return  # it declares the capability and exports no handler
            except PluginQuarantined as error:
                raise Paused from error  # until ``reset``
            except LoadError as error:
                if plugin.pool.state is State.QUARANTINED:  # loaded asleep, and its first start failed
                    raise Paused from error
                raise

        self._mailboxes[plugin.id] = Mailbox(plugin.id, deliver, self._config.limits.event_queue)

    def _resume_mailbox(self, plugin: Plugin) -> None:
        mailbox = self._mailboxes.get(plugin.id)
        if mailbox is not None:
            mailbox.resume()

    def _apply_sidecar(self, plugin: Plugin) -> bool:
        """Tell the plugin its configuration when a person has changed the file; False when nobody has."""
        with self._runner.open_frame(self._runner.deadline(None)) as frame, plugin.changing_config(frame.deadline):
            config = read_config(plugin.config_path, plugin.id) or {}
            if config == (plugin.told or {}):
                return False
            if plugin.pool.state is State.ASLEEP:  # whoever wakes reads the file
                plugin.told = config
                return False
            self._tell_config(plugin, config, frame)
            return True

    def _tell_config(self, plugin: Plugin, config: dict[str, Any], frame: Frame) -> None:
        """Within ``changing_config``. Raises ConfigError when the guest refuses it."""

        def send(data: bytes) -> bytes:
            try:
                return self._runner.call(plugin, "set_config", data, frame)
            except CommandNotFound:
                return b""

        plugin.told = config  # whatever comes of it: a worker that it costs gets the file's, as any that starts
        try:
            plugin.told = self._loader.starter.apply_config(plugin.id, plugin.config_path, send, config, frame)
        except CommandError as error:
            raise ConfigError(plugin.id, str(error)) from error

    def _read_offers(self, files: OfferedFiles | None) -> dict[str, bytes]:
        if not files:
            return {}
        return {key: _offer(key, value, self._config.limits.frame) for key, value in files.items()}

    def _idle_sections(self) -> set[str]:
        """The plugins' sections in the configuration that count for nobody yet: by a folder's name only pins do."""
        plugins = self._table.snapshot()
        refused = {error.plugin_id for error in self.load_errors.values()}  # why is said there
        folders = {plugin.files.name for plugin in plugins.values()} | self.load_errors.keys()
        pins = {key for key, own in self._config.plugins.items() if own.model_fields_set == {"sha256"}}
        return self._config.plugins.keys() - plugins.keys() - ((folders | refused) & pins)

    def _hush_sockets(self) -> None:
        for plugin_id in self._table.snapshot():
            self._services.websockets.hush(plugin_id)

    def _unload(self, plugin: Plugin) -> None:
        with self._loader.unloading(plugin):
            mailbox = self._mailboxes.pop(plugin.id, None)
            if mailbox is not None:  # there is none yet while the plugin is being loaded
                mailbox.close()
            self._part_with(plugin)
        self._runner.poisons.clear(plugin.id)

    def _part_with(self, plugin: Plugin) -> None:
        self._services.websockets.hush(plugin.id)
        try:
            self._loader.end(plugin, Deadline.after(self._config.calls.shutdown_timeout))
        finally:
            self._services.websockets.dismiss(plugin.id)

    def _end_plugins(self) -> None:
        deadline = Deadline.within(self._closing_seconds)
        self._hush_sockets()
        try:
            for plugin in self._table.snapshot().values():
                self._loader.end(plugin, deadline)
        finally:
            self._services.websockets.close()


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
