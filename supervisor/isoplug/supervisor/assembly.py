"""Puts a supervisor together: checks folders, chooses the embedded defaults, builds what runs calls and starts workers.

Everything that has to be closed again goes onto the caller's ``ExitStack`` as it is made, so that a failure half-way
leaves nothing behind.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.shared.limits import WorkerLimits
from isoplug.supervisor.calls import CallRunner
from isoplug.supervisor.config import Config, describe_problems
from isoplug.supervisor.egress import AddressPolicy, AiohttpClient, HttpClient, Lookups, NetLoop
from isoplug.supervisor.files import reason
from isoplug.supervisor.host import HOST_FUNCTIONS, NoSecrets, NoStorage, RuntimeContext, Services, WorkspaceContext
from isoplug.supervisor.host.namespaces import diaryx_server
from isoplug.supervisor.loader import Loader
from isoplug.supervisor.namespaces import EmbeddedNamespaces, HttpNamespaces, NamespaceProvider
from isoplug.supervisor.permissions import Checker, DenyAll, Frontmatter
from isoplug.supervisor.plugins.table import PluginTable
from isoplug.supervisor.pool import Launcher, LeaseBook
from isoplug.supervisor.pool.runtime_dir import RuntimeDir
from isoplug.supervisor.secrets import (
    Discreet,
    EncryptedSecrets,
    EnvironmentKey,
    KeyFile,
    KeyringKey,
    KeySource,
    Secrets,
)
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
    "address_policy",
    "configured",
    "default_checker",
    "default_http",
    "default_namespaces",
    "default_runtime_context",
    "default_secrets",
    "default_sockets",
    "default_storage",
    "engine",
    "existing_folder",
    "guarded_filesystem",
    "is_foreign",
    "own_secrets",
    "runtime_folder",
    "socket_desk",
    "wasi_runner",
]


def configured(config: Config, *, call_timeout: float | None = None, **arguments: Any) -> Config:
    """``config`` with the arguments that were given. Raises SetupError that names what is wrong."""
    # Text stays text for the model to parse: Path("") would be the current folder, which nobody meant.
    changes = {
        name: Path(value) if isinstance(value, os.PathLike) else value
        for name, value in arguments.items()
        if value is not None
    }
    if call_timeout is not None:
        changes["calls"] = {**dict(config.calls), "timeout": call_timeout}
    try:
        return config.override(**changes)
    except ValidationError as error:
        raise SetupError("; ".join(describe_problems(error))) from error


def existing_folder(folder: Path | None, argument: str) -> Path | None:
    if folder is None:
        return None
    try:
        if folder.is_dir():
            return folder.resolve()
        problem = "is not a folder; make it, or name another"
    except OSError as error:  # a folder above it is closed to this user, the name is too long, ...
        problem = f"cannot be looked at ({reason(error)}); run as a user who can, or name another"
    raise SetupError(f"{argument}: {folder} {problem}")


def guarded_filesystem(
    config: Config, workspace: Path | None, plugins: Path | None, own: FileSystem | None, cleanup: ExitStack
) -> tuple[FileSystem | None, RootIndex]:
    filesystem = own
    if filesystem is None and workspace is not None:
        # A plugins folder inside the workspace is closed to writes: whoever changes a module has its permissions.
        confined = WorkspaceFilesystem(workspace, closed_to_writes=[plugins] if plugins is not None else [])
        cleanup.callback(confined.close)
        filesystem = confined
    if filesystem is None:
        return None, RootIndex(None)
    try:
        named = None if config.root_index is None else WorkspacePath.parse(str(config.root_index), workspace)
    except ServiceError as error:
        raise SetupError(f"root_index: {error}") from error
    index = find_root_index(filesystem, named)
    return GuardedFilesystem(filesystem, index), index


def default_checker(workspace: Path | None, index: RootIndex) -> Checker:
    return DenyAll() if workspace is None else Frontmatter(workspace, index)


def default_storage(config: Config, workspace: Path | None, plugins: Path | None, cleanup: ExitStack) -> Storage:
    if workspace is None and plugins is None and config.state_dir is None:
        return NoStorage()
    storage = SqliteStorage(state_dir_for(workspace, plugins, config.state_dir) / "storage.sqlite3")
    cleanup.callback(storage.close)
    return storage


def address_policy(config: Config) -> AddressPolicy:
    """Raises SetupError for a name that no URL could hold."""
    try:
        return AddressPolicy.of(config.http.allow_private)
    except ServiceError as error:
        raise SetupError(f'http.allow_private: {error}; write hosts such as "nas.local" or "10.0.0.5"') from error


def default_http(config: Config, loop: NetLoop, policy: AddressPolicy, lookups: Lookups) -> HttpClient:
    return AiohttpClient(loop, policy, lookups, config.http.max_response)


def default_sockets(config: Config, loop: NetLoop, policy: AddressPolicy, lookups: Lookups) -> WebSockets:
    own = config.websockets
    message_bytes = _message_bytes(config)

    def load_dial() -> Dial:
        from isoplug.supervisor.egress.websocket import dial  # imports aiohttp, which not every host needs

        return partial(
            dial,
            policy=policy,
            lookups=lookups,
            max_message_bytes=message_bytes,
            silence_seconds=2 * own.ping,
        )

    return KeptSockets(
        loop,
        load_dial,
        SocketPolicy(own.queue, message_bytes, own.ping, own.reconnect_initial, own.reconnect_max),
    )


def socket_desk(config: Config, checker: Checker, sockets: WebSockets) -> Desk:
    return Desk(sockets, checker, config.websockets.queue, _message_bytes(config))


def _message_bytes(config: Config) -> int:
    return min(config.websockets.message, config.limits.frame)  # it has to get to the guest, too


def default_runtime_context(config: Config, workspace: Path | None, permissions: Checker) -> RuntimeContext:
    """Raises SetupError for a server's URL that is none."""
    try:
        return WorkspaceContext(workspace, permissions, config.server.url, os.environ.get(config.server.auth_token_env))
    except ServiceError as error:
        raise SetupError(f"server.url: {error}") from error


def default_namespaces(
    config: Config,
    workspace: Path | None,
    plugins: Path | None,
    context: RuntimeContext,
    http: HttpClient,
    cleanup: ExitStack,
) -> NamespaceProvider | None:
    """None when nothing says where they should be kept. Raises SetupError."""
    if config.namespaces.provider == "server":
        if config.server.url is None and isinstance(context, WorkspaceContext):
            raise SetupError('namespaces.provider is "server", but no server is named: set url in [server]')
        return HttpNamespaces(http, diaryx_server(context))
    if workspace is None and plugins is None and config.state_dir is None:
        return None
    namespaces = EmbeddedNamespaces(state_dir_for(workspace, plugins, config.state_dir), config.limits.namespace_quota)
    cleanup.callback(namespaces.close)
    return namespaces


def default_secrets(config: Config, workspace: Path | None, plugins: Path | None, cleanup: ExitStack) -> Secrets:
    if workspace is None and plugins is None and config.state_dir is None:
        return NoSecrets()
    folder = state_dir_for(workspace, plugins, config.state_dir)
    secrets = EncryptedSecrets(folder / "secrets.sqlite3", _key_source(config, folder, workspace, plugins))
    cleanup.callback(secrets.close)
    return secrets


def _key_source(config: Config, folder: Path, workspace: Path | None, plugins: Path | None) -> KeySource:
    match config.secrets.key_source:
        case "file":
            file = config.secrets.key_file or folder / "secrets.key"
            check_out_of_reach(file, "secrets.key_file", workspace, plugins)
            return KeyFile(file)
        case "env":
            return EnvironmentKey(config.secrets.key_env)
        case "keyring":
            return KeyringKey(str(folder))


def own_secrets(secrets: Secrets) -> Secrets:
    """A host's own service, whose words nobody gets to see."""
    return Discreet(secrets) if is_foreign(secrets) else secrets


def runtime_folder(cleanup: ExitStack) -> Path:
    """A private folder on a short path, for sockets and for what programs write."""
    runtime_dir = RuntimeDir.make(_runtime_bases())
    cleanup.callback(runtime_dir.close)
    return runtime_dir.path


def wasi_runner(config: Config, runtime: Path, cleanup: ExitStack) -> WasiRunner:
    limits = WasiLimits(
        memory_bytes=config.wasi.memory,
        output_bytes=config.wasi.output,
        scratch_bytes=config.wasi.scratch,
        answer_bytes=config.limits.frame,
        runs=config.wasi.runs,
    )
    runner = WasiRunner(runtime, limits)
    cleanup.callback(runner.close)
    return runner


def engine(
    config: Config, runtime: Path, services: Services, table: PluginTable, cleanup: ExitStack
) -> tuple[CallRunner, Loader]:
    """What runs calls and what starts workers, over one runtime folder and one zygote."""
    limits = WorkerLimits(
        wasm_memory_bytes=config.limits.wasm_memory,
        process_memory_bytes=config.limits.process_memory,
        open_files=config.limits.open_files,
        frame_bytes=config.limits.frame,
    )
    notices = [function.name for function in HOST_FUNCTIONS.values() if function.is_notice]
    functions = [name for name in HOST_FUNCTIONS if name not in notices]
    launcher = Launcher(runtime, limits, functions, notices)
    cleanup.callback(launcher.close)
    book = LeaseBook()
    runner = CallRunner(
        table, services, book, call_timeout_seconds=config.calls.timeout, max_depth=config.calls.max_depth
    )
    return runner, Loader(launcher, runner, table, services, book, config)


def _runtime_bases() -> list[str]:
    """Absolute, since the processes run elsewhere; UTF-8, since ZeroMQ takes nothing else."""
    bases = [os.environ.get("XDG_RUNTIME_DIR", "")]
    with suppress(FileNotFoundError):  # not one of the usual places can be written to
        bases.append(tempfile.gettempdir())
    return [base for base in (*bases, "/tmp") if os.path.isabs(base) and _is_utf8(base)]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_foreign(service: object) -> bool:
    """True for a service that the host wrote: nobody knows how long it takes. Those of this package return soon."""
    return service is not None and not type(service).__module__.startswith("isoplug.supervisor.")
