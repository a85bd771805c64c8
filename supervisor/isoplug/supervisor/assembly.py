"""Puts a supervisor together: checks folders, chooses the embedded defaults, builds what runs calls and starts workers.

Everything that has to be closed again goes onto the caller's ``ExitStack`` as it is made, so that a failure half-way
leaves nothing behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.calls import CallRunner, Crash, Interceptor, OnCrash
from isoplug.supervisor.config import Config
from isoplug.supervisor.egress import AddressPolicy, AiohttpClient, HttpClient, Lookups, NetLoop
from isoplug.supervisor.files import reason
from isoplug.supervisor.head_start import HeadStart
from isoplug.supervisor.host import (
    HOST_FUNCTIONS,
    EventSink,
    FileSource,
    LogSink,
    NoOfferedFiles,
    NoSecrets,
    NoStorage,
    RuntimeContext,
    Services,
    WorkspaceContext,
)
from isoplug.supervisor.host.namespaces import diaryx_server
from isoplug.supervisor.integrity import configured_policy
from isoplug.supervisor.loader import Loader
from isoplug.supervisor.namespaces import EmbeddedNamespaces, HttpNamespaces, NamespaceProvider
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import Checker, DenyAll, Frontmatter
from isoplug.supervisor.plugins.known import KnownManifests
from isoplug.supervisor.plugins.table import PluginTable
from isoplug.supervisor.pool import Keeper, Launcher, LeaseBook
from isoplug.supervisor.recording import CRASHES, RECORDINGS, CrashLog, Recorder, Ring
from isoplug.supervisor.secrets import (
    Discreet,
    EncryptedSecrets,
    EnvironmentKey,
    KeyFile,
    KeyringKey,
    KeySource,
    Secrets,
)
from isoplug.supervisor.starting import Starter
from isoplug.supervisor.state import check_out_of_reach, state_dir_for
from isoplug.supervisor.storage import SqliteStorage, Storage
from isoplug.supervisor.wasi import WasiLimits, WasiRunner
from isoplug.supervisor.websockets import Desk, Dial, KeptSockets, SocketPolicy, WebSockets
from isoplug.supervisor.workspace import (
    FileSystem,
    GuardedFilesystem,
    RootIndex,
    WorkspaceFilesystem,
    WorkspacePath,
    find_root_index,
)

__all__ = [
    "Observers",
    "OwnServices",
    "build_launcher",
    "build_observers",
    "build_services",
    "engine",
    "existing_folder",
    "module_folder",
]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnServices:
    """What a host has put in place of the embedded services; None: nothing."""

    filesystem: FileSystem | None = None
    storage: Storage | None = None
    secrets: Secrets | None = None
    permissions: Checker | None = None
    events: EventSink | None = None
    files: FileSource | None = None
    runtime_context: RuntimeContext | None = None
    http: HttpClient | None = None
    namespaces: NamespaceProvider | None = None
    websockets: WebSockets | None = None

    def __post_init__(self) -> None:
        """Raises SetupError for what cannot be the service that it is passed as."""
        for name, protocol in _PROTOCOLS.items():
            service = getattr(self, name)
            if service is not None:
                _require_likeness(service, name, protocol)

    @property
    def may_block(self) -> bool:
        """Whether some of it may take longer than a call has. ``HttpNamespaces`` are this package's, but the client and
        the server that a host made them with need not be; nor is the source of the key of ``EncryptedSecrets``."""
        if isinstance(self.namespaces, HttpNamespaces) or isinstance(self.secrets, EncryptedSecrets):
            return True
        return any(_is_foreign(getattr(self, field.name)) for field in fields(self))


_PROTOCOLS: dict[str, type] = {
    "filesystem": FileSystem,
    "storage": Storage,
    "secrets": Secrets,
    "permissions": Checker,
    "events": EventSink,
    "files": FileSource,
    "runtime_context": RuntimeContext,
    "http": HttpClient,
    "namespaces": NamespaceProvider,
    "websockets": WebSockets,
}


def _require_likeness(service: object, argument: str, protocol: type) -> None:
    """One method is enough: a host may know that its plugins need no other."""
    if isinstance(service, type):
        raise SetupError(f"{argument}: {service.__name__} is a class; pass an instance of it")
    names = [name for name in vars(protocol) if not name.startswith("_")]
    if not any(hasattr(service, name) for name in names):
        raise SetupError(
            f"{argument}: a {type(service).__name__} has none of the methods {', '.join(names)}; "
            f"isoplug.supervisor.{protocol.__name__} says what they are"
        )


def _is_foreign(service: object) -> bool:
    """True for a service that the host wrote: nobody knows how long it takes. Those of this package return soon."""
    return service is not None and not type(service).__module__.startswith("isoplug.supervisor.")


def existing_folder(folder: Path | None, argument: str) -> Path | None:
    """The folder without symbolic links. Raises SetupError that names ``argument``."""
    if folder is None:
        return None
    try:
        if folder.is_dir():
            return folder.resolve()
        problem = "is not a folder; make it, or name another"
    except OSError as error:  # a folder above it is closed to this user, the name is too long, ...
        problem = f"cannot be looked at ({reason(error)}); run as a user who can, or name another"
    raise SetupError(f"{argument}: {folder} {problem}")


def module_folder(config: Config, workspace: Path | None, plugins: Path | None) -> Path:
    """Where loaded modules are kept: on a disk, if there is one, not in memory, where the runtime folder may be."""
    if workspace is not None or plugins is not None or config.state_dir is not None:
        with suppress(SetupError):  # all services that would need it are the host's own
            return state_dir_for(workspace, plugins, config.state_dir)
    return Path(tempfile.gettempdir())


def build_services(
    config: Config,
    own: OwnServices,
    workspace: Path | None,
    plugins: Path | None,
    runtime: Path,
    cleanup: ExitStack,
) -> Services:
    """All services of one supervisor: the host's own, and the embedded ones for the rest. The folders exist. Raises
    SetupError."""
    embedded = _Embedded(config, workspace, plugins, cleanup)
    filesystem = embedded.filesystem() if own.filesystem is None else own.filesystem
    index = RootIndex(None) if filesystem is None else embedded.root_index(filesystem)
    if index.reason:
        _log.warning("workspace.no_root_index", reason=index.reason)
    http = embedded.http() if own.http is None else own.http
    permissions = embedded.permissions(index) if own.permissions is None else own.permissions
    context = embedded.runtime_context(permissions) if own.runtime_context is None else own.runtime_context
    websockets = embedded.websockets() if own.websockets is None else own.websockets
    return Services(
        permissions=permissions,
        storage=embedded.storage() if own.storage is None else own.storage,
        secrets=embedded.secrets() if own.secrets is None else _discreet(own.secrets),
        events=LogSink() if own.events is None else own.events,
        files=NoOfferedFiles() if own.files is None else own.files,
        runtime_context=context,
        http=http,
        websockets=Desk(websockets, permissions, config.websockets.queue, embedded.message_bytes),
        namespaces=embedded.namespaces(context, http) if own.namespaces is None else own.namespaces,
        wasi=embedded.wasi(runtime),
        filesystem=None if filesystem is None else GuardedFilesystem(filesystem, index),
        root_index=index.path,
        workspace=workspace,
        storage_quota_bytes=config.limits.storage_quota,
        frame_bytes=config.limits.frame,
        # A keyring may ask a person for a password when the first secret comes.
        may_block=own.may_block or config.secrets.key_source == "keyring",
    )


def _discreet(secrets: Secrets) -> Secrets:
    """A host's own service, whose words nobody gets to see."""
    return Discreet(secrets) if _is_foreign(secrets) else secrets


class _Embedded:
    """Makes the services of this package, each at most once. What has to be closed goes onto ``cleanup``, and all
    methods raise SetupError."""

    def __init__(self, config: Config, workspace: Path | None, plugins: Path | None, cleanup: ExitStack) -> None:
        self._config, self._workspace, self._plugins, self._cleanup = config, workspace, plugins, cleanup
        self._loop, self._lookups = NetLoop(), Lookups()
        cleanup.callback(self._loop.close)
        try:
            self._policy = AddressPolicy.of(config.http.allow_private)
        except ServiceError as error:  # a name that no URL could hold
            raise SetupError(f"http.allow_private: {error}") from error

    @cached_property
    def _state(self) -> Path | None:
        """The state folder; None when nothing says where it should be."""
        if self._workspace is None and self._plugins is None and self._config.state_dir is None:
            return None
        return state_dir_for(self._workspace, self._plugins, self._config.state_dir)

    @property
    def message_bytes(self) -> int:
        """Of a WebSocket's message, which has to get to the guest, too."""
        return min(self._config.websockets.message, self._config.limits.frame)

    # --- the workspace --------------------------------------------------------------------------------------------

    def filesystem(self) -> FileSystem | None:
        """None without a workspace."""
        if self._workspace is None:
            return None
        # A plugins folder inside the workspace is closed to writes: whoever changes a module has its permissions.
        closed = [] if self._plugins is None else [self._plugins]
        filesystem = WorkspaceFilesystem(self._workspace, closed_to_writes=closed)
        self._cleanup.callback(filesystem.close)
        return filesystem

    def root_index(self, filesystem: FileSystem) -> RootIndex:
        name = self._config.root_index
        try:
            named = None if name is None else WorkspacePath.parse(str(name), self._workspace)
        except ServiceError as error:
            raise SetupError(f"root_index: {error}") from error
        return find_root_index(filesystem, named)

    def permissions(self, index: RootIndex) -> Checker:
        return DenyAll() if self._workspace is None else Frontmatter(self._workspace, index)

    def runtime_context(self, permissions: Checker) -> RuntimeContext:
        server = self._config.server
        try:
            return WorkspaceContext(self._workspace, permissions, server.url, os.environ.get(server.auth_token_env))
        except ServiceError as error:
            raise SetupError(f'server.url: {error}; write for example "https://diaryx.example.org"') from error

    # --- what is kept ---------------------------------------------------------------------------------------------

    def storage(self) -> Storage:
        if self._state is None:
            return NoStorage()
        storage = SqliteStorage(self._state / "storage.sqlite3")
        self._cleanup.callback(storage.close)
        return storage

    def secrets(self) -> Secrets:
        if self._state is None:
            return NoSecrets()
        secrets = EncryptedSecrets(self._state / "secrets.sqlite3", self._key_source(self._state))
        self._cleanup.callback(secrets.close)
        return secrets

    def _key_source(self, state: Path) -> KeySource:
        own = self._config.secrets
        match own.key_source:
            case "file":
                file = own.key_file or state / "secrets.key"
                check_out_of_reach(file, "secrets.key_file", self._workspace, self._plugins)
                return KeyFile(file)
            case "env":
                return EnvironmentKey(own.key_env)
            case "keyring":
                return KeyringKey(str(state))

    def namespaces(self, context: RuntimeContext, http: HttpClient) -> NamespaceProvider | None:
        """None when nothing says where they should be kept."""
        if self._config.namespaces.provider == "server":
            if self._config.server.url is None and isinstance(context, WorkspaceContext):
                raise SetupError('namespaces.provider is "server", but no server is named: set url in [server]')
            return HttpNamespaces(http, diaryx_server(context))
        if self._state is None:
            return None
        namespaces = EmbeddedNamespaces(self._state, self._config.limits.namespace_quota)
        self._cleanup.callback(namespaces.close)
        return namespaces

    # --- what reaches out, and what runs --------------------------------------------------------------------------

    def http(self) -> HttpClient:
        return AiohttpClient(self._loop, self._policy, self._lookups, self._config.http.max_response)

    def websockets(self) -> WebSockets:
        own = self._config.websockets
        policy = SocketPolicy(own.queue, self.message_bytes, own.ping, own.reconnect_initial, own.reconnect_max)
        return KeptSockets(self._loop, self._load_dial, policy)

    def _load_dial(self) -> Dial:
        from isoplug.supervisor.egress.websocket import dial  # imports aiohttp, which not every host needs

        return partial(
            dial,
            policy=self._policy,
            lookups=self._lookups,
            max_message_bytes=self.message_bytes,
            silence_seconds=2 * self._config.websockets.ping,
        )

    def wasi(self, runtime: Path) -> WasiRunner:
        own = self._config.wasi
        limits = WasiLimits(
            memory_bytes=own.memory,
            output_bytes=own.output,
            scratch_bytes=own.scratch,
            answer_bytes=self._config.limits.frame,
            runs=own.runs,
        )
        runner = WasiRunner(runtime, limits, self._config.lockdown)
        self._cleanup.callback(runner.close)
        return runner


def _ignore(_: Crash) -> None:
    """Where nothing says where reports of crashes should be kept."""


@dataclass(frozen=True, slots=True)
class Observers:
    """What stands around calls, the first interceptor outermost, and who hears of crashes."""

    interceptors: tuple[Interceptor, ...] = ()
    on_crash: OnCrash = _ignore


def build_observers(
    config: Config, workspace: Path | None, plugins: Path | None, interceptors: Sequence[Interceptor]
) -> Observers:
    """``interceptors``, within them the recorder, which so sees what the guest gets to see; and the reports of crashes.
    Raises SetupError when calls are to be recorded and there is no state folder."""
    try:
        state = state_dir_for(workspace, plugins, config.state_dir)
    except SetupError:  # all services that would need it are the host's own
        if config.record.enabled:
            raise
        return Observers(tuple(interceptors))
    if not config.record.enabled:
        return Observers(tuple(interceptors), CrashLog(state / CRASHES))
    ring = Ring(state / RECORDINGS, config.record.calls, config.record.size)
    recorder = Recorder(ring, config.record.size)
    return Observers((*interceptors, recorder), CrashLog(state / CRASHES, recorder.crash_of, recorder.scrub))


def build_launcher(config: Config, runtime: Path, cleanup: ExitStack, head_start: HeadStart | None = None) -> Launcher:
    """Starts workers with the import table of all host functions; there is one zygote for all of them."""
    notices = [function.name for function in HOST_FUNCTIONS.values() if function.is_notice]
    functions = [name for name in HOST_FUNCTIONS if name not in notices]
    launcher = Launcher(runtime, config.lockdown, functions, notices, head_start)
    cleanup.callback(launcher.close)
    return launcher


def engine(
    config: Config,
    runtime: Path,
    modules: Path,
    services: Services,
    table: PluginTable,
    observers: Observers,
    cleanup: ExitStack,
    head_start: HeadStart | None = None,
) -> tuple[CallRunner, Loader]:
    """What runs calls and what starts workers, over one runtime folder; copies of modules are kept in the folder
    ``modules``."""
    launcher = build_launcher(config, runtime, cleanup, head_start)
    book, keeper = LeaseBook(), Keeper()
    cleanup.callback(keeper.close)
    runner = CallRunner(
        table,
        services,
        call_timeout_seconds=config.calls.timeout,
        max_depth=config.calls.max_depth,
        interceptors=observers.interceptors,
        on_crash=observers.on_crash,
    )
    # Others write to the folder for temporary files as well.
    known = KnownManifests(None if modules == Path(tempfile.gettempdir()) else modules / "manifests")
    starter = Starter(launcher, runner, services, config, configured_policy(config), modules, known)
    return runner, Loader(starter, runner, table, services, book, keeper, config)
