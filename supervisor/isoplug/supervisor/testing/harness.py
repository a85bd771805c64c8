"""One plugin under test: the real supervisor and a real worker, around them services that remember."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, cast

from isoplug.shared.errors import InvalidArgument, LoadError
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls import Cancellation
from isoplug.supervisor.config import Config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.events import encode_event
from isoplug.supervisor.files import reason
from isoplug.supervisor.host import EventSink
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.permissions import Checker
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.manifest import Manifest
from isoplug.supervisor.plugins.sidecar import write_config
from isoplug.supervisor.secrets import Secrets
from isoplug.supervisor.storage import Storage
from isoplug.supervisor.supervisor import OfferedFiles, Supervisor
from isoplug.supervisor.testing.events import RecordingEvents
from isoplug.supervisor.testing.http import RecordingHttp
from isoplug.supervisor.testing.permissions import RecordingPermissions, RequestedPermissions
from isoplug.supervisor.testing.secrets import MemorySecrets
from isoplug.supervisor.testing.storage import RecordingStorage
from isoplug.supervisor.testing.websockets import RecordingSockets
from isoplug.supervisor.websockets import WebSockets
from isoplug.supervisor.workspace import WorkspacePath

__all__ = ["PluginHarness"]

#: Rules in the front matter's form, a checker, what the manifest requests, or None: everything is allowed.
Permissions: TypeAlias = "Mapping[str, Any] | Checker | Literal['requested'] | None"
#: A folder, or the files of a temporary one.
Workspace: TypeAlias = "str | os.PathLike[str] | Mapping[str, str | bytes] | None"

_ROOT_INDEX = "---\ntitle: Test workspace\ncontents: []\n---\n"
_WAIT_SECONDS = 10.0


class PluginHarness:
    """Loads one plugin and drives it::

        with PluginHarness("target/plugin.wasm", workspace={"a.md": "Hello"}) as plugin:
            plugin.http.answer("GET", "https://api.example/", json={"ok": True})
            assert plugin.command("count") == {"words": 1}
            assert plugin.events.received == [{"type": "counted"}]

    Args:
        wasm: the module, as a path or as bytes. It is loaded from a copy: no manifest.json appears beside it.
        permissions: ``{"read_files": ["all"]}`` and the like; ``"requested"``: exactly what the manifest's
            ``requested_permissions`` say; None: everything is allowed.
        config: the plugin's configuration at its start.
        workspace: a folder that is used as it is, so copy it first if the plugin writes; or the files of a temporary
            one, text or bytes by name. A temporary one has an empty root index ``README.md`` unless it is given.
        events, storage, http, secrets, websockets: services to use in place of new ``RecordingEvents`` and so on: a
            host's own, or those of another harness.
        host_config: the supervisor's own configuration, ``config`` there.
        others: further arguments of ``Supervisor``.

    Raises:
        LoadError and the errors of a call: the plugin does not load.
        SetupError, InvalidArgument: an argument cannot be used.

    Namespaces and whatever else keeps state are the embedded services in a temporary folder. ``close``, or the end of
    the ``with``, ends the process and removes everything temporary.
    """

    def __init__(
        self,
        wasm: str | os.PathLike[str] | bytes,
        *,
        permissions: Permissions = None,
        config: dict[str, Any] | None = None,
        workspace: Workspace = None,
        events: EventSink | None = None,
        storage: Storage | None = None,
        http: HttpClient | None = None,
        secrets: Secrets | None = None,
        websockets: WebSockets | None = None,
        host_config: Config | None = None,
        **others: Any,
    ) -> None:
        with ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="isoplug-test-")))
            self._wasm = _placed(wasm, folder)
            if config is not None:
                write_config(self._wasm.with_name("config.json"), config, "under test")
            #: The folder that the plugin sees.
            self.workspace = _workspace(workspace, folder / "workspace")
            # Typed as the recording ones, which they are unless the caller gave others.
            self.events = cast(RecordingEvents, RecordingEvents() if events is None else events)
            self.storage = cast(RecordingStorage, RecordingStorage() if storage is None else storage)
            self.http = cast(RecordingHttp, RecordingHttp() if http is None else http)
            self.secrets = cast(MemorySecrets, MemorySecrets() if secrets is None else secrets)
            self.websockets = cast(RecordingSockets, RecordingSockets() if websockets is None else websockets)
            self.permissions = cast(RecordingPermissions, self._checker(permissions))
            #: For all that the harness has no method for.
            self.supervisor = cleanup.enter_context(
                Supervisor(
                    workspace=self.workspace,
                    state_dir=others.pop("state_dir", folder / "state"),
                    events=self.events,
                    storage=self.storage,
                    http=self.http,
                    secrets=self.secrets,
                    websockets=self.websockets,
                    config=host_config,
                    permissions=self.permissions,
                    **others,
                )
            )
            self.id = self._load(wasm)
            self._cleanup = cleanup.pop_all()

    # --- what the plugin is ---------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        return self.supervisor.plugins[self.id].manifest

    @property
    def status(self) -> PluginStatus:
        """State, process ids, restarts, the last failure, memory and CPU."""
        return self.supervisor.plugins[self.id].status

    # --- driving it -----------------------------------------------------------------------------------------------

    def command(
        self,
        name: str,
        params: Any = None,
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """See ``Supervisor.command``, also for what it raises. ``strict=True`` fails a test whose plugin asks for
        what it may not have."""
        return self.supervisor.command(
            self.id,
            name,
            params,
            timeout=timeout,
            files=files,
            retries=retries,
            strict=strict,
            record=record,
            cancellation=cancellation,
        )

    def call(
        self,
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
        """See ``Supervisor.call``."""
        return self.supervisor.call(
            self.id,
            export,
            data,
            timeout=timeout,
            files=files,
            retries=retries,
            strict=strict,
            record=record,
            cancellation=cancellation,
        )

    def emit(self, event_type: str, payload: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> None:
        """Deliver an event and wait until the plugin has handled it.

        A host only logs when a handler fails; here it is raised, as by ``call``. Raises InvalidArgument for an event
        that no host would deliver to this plugin, since its manifest lacks the capability.
        """
        payload = dict(payload or {})
        if str(event_type).startswith("workspace_"):
            payload.setdefault("workspace_root", str(self.workspace))
        capability, event = encode_event(event_type, payload)
        if capability not in self.manifest.capabilities:
            raise InvalidArgument(
                f"plugin {self.id!r} gets no {event_type!r} events: its manifest does not declare {capability!r}"
            )
        self.supervisor.call(self.id, "on_event", event, timeout=timeout)

    def get_config(self) -> Any:
        """See ``Supervisor.get_config``."""
        return self.supervisor.get_config(self.id)

    def set_config(self, config: dict[str, Any]) -> None:
        """See ``Supervisor.set_config``."""
        self.supervisor.set_config(self.id, config)

    # --- its life -------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Kill the worker as a crash would, and wait until the supervisor knows. The next call waits for a new one,
        which has had ``set_config`` and ``init``. More than ``restart.max_restarts`` crashes quarantine the plugin,
        until ``reset``."""
        pids = self.status.worker_pids
        for pid in pids:
            _kill(pid)
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while set(pids) & set(self.status.worker_pids):
            if time.monotonic() > give_up_at:
                raise AssertionError(f"worker {pids} of plugin {self.id!r} was killed and is still in use")
            time.sleep(0.001)

    def restart(self) -> None:
        """As when the application ends and starts again: ``shutdown``, a new process, ``set_config``, ``init``. Storage
        and files stay, what the plugin kept in memory does not."""
        self.supervisor.unload(self.id)
        self.supervisor.load_plugin(self._wasm)

    def reset(self) -> None:
        """See ``Supervisor.reset``: out of quarantine."""
        self.supervisor.reset(self.id)

    def close(self) -> None:
        """Idempotent."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- its workspace --------------------------------------------------------------------------------------------

    def write(self, name: str, content: str | bytes) -> Path:
        """Put a file into the workspace, folders included. Raises ServiceError for a name outside."""
        return _write(self.workspace, name, content)

    def read(self, name: str) -> str:
        """A text file of the workspace. Raises ServiceError for a name outside, OSError."""
        return _path(self.workspace, name).read_text(encoding="utf-8")

    def files(self) -> list[str]:
        """All files of the workspace, sorted."""
        found = (path for path in self.workspace.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.workspace).as_posix() for path in found)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _load(self, wasm: str | os.PathLike[str] | bytes) -> str:
        try:
            plugin_id = self.supervisor.load_plugin(self._wasm).id
        except LoadError as error:
            if not isinstance(wasm, bytes):
                error.add_note(f"{self._wasm} is a copy of {os.fspath(wasm)}")
            raise
        if isinstance(self.permissions, RequestedPermissions):
            self.permissions.require_usable(plugin_id)
        return plugin_id

    def _checker(self, permissions: Permissions) -> Checker:
        if permissions is None or isinstance(permissions, Mapping):
            return RecordingPermissions(permissions)
        if permissions == "requested":
            return RequestedPermissions(lambda plugin_id: self.supervisor.plugins[plugin_id].manifest)
        if isinstance(permissions, str):
            raise InvalidArgument(f"permissions must be rules, a checker or 'requested', not {permissions!r}")
        return permissions


def _placed(wasm: str | os.PathLike[str] | bytes, folder: Path) -> Path:
    """A copy in a folder of its own, for the sidecars; messages call the plugin by the folder's name."""
    if isinstance(wasm, bytes):
        name, module = "plugin", wasm
    else:
        name, module = PluginFiles.beside(Path(wasm)).name, _read(Path(wasm))
    placed = folder / "plugins" / name / "plugin.wasm"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(module)
    return placed


def _read(wasm: Path) -> bytes:
    try:
        return wasm.read_bytes()
    except OSError as error:
        raise LoadError(f"cannot read {wasm}: {reason(error)}; build the plugin, or check its path") from error


def _workspace(given: Workspace, temporary: Path) -> Path:
    if given is not None and not isinstance(given, Mapping):
        return Path(given).resolve()
    temporary.mkdir()
    for name, content in {"README.md": _ROOT_INDEX, **(given or {})}.items():
        _write(temporary, name, content)
    return temporary


def _path(workspace: Path, name: str) -> Path:
    return workspace.joinpath(*WorkspacePath.parse(name, workspace).parts)


def _write(workspace: Path, name: str, content: str | bytes) -> Path:
    path = _path(workspace, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _kill(pid: int) -> None:
    """Wait for the death too: a worker that is still dying counts as alive."""
    with suppress(ProcessLookupError):  # it died by itself
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], _WAIT_SECONDS)
        finally:
            os.close(process)
