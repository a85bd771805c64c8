"""A folder of plugins under test: the real supervisor and real workers, around them services that remember."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, cast

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.config import Config
from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.host import EventSink
from isoplug.supervisor.permissions import Checker
from isoplug.supervisor.plugins.folder import scan
from isoplug.supervisor.secrets import Secrets
from isoplug.supervisor.storage import Storage
from isoplug.supervisor.supervisor import Supervisor
from isoplug.supervisor.testing.events import RecordingEvents
from isoplug.supervisor.testing.faults import Faults
from isoplug.supervisor.testing.http import RecordingHttp
from isoplug.supervisor.testing.permissions import RecordingPermissions, RequestedPermissions
from isoplug.supervisor.testing.secrets import MemorySecrets
from isoplug.supervisor.testing.storage import RecordingStorage
from isoplug.supervisor.testing.websockets import RecordingSockets
from isoplug.supervisor.websockets import WebSockets
from isoplug.supervisor.workspace import WorkspacePath

__all__ = ["Permissions", "SupervisorHarness", "Workspace"]

#: Rules in the front matter's form, a checker, what the manifests request, or None: everything is allowed.
Permissions: TypeAlias = "Mapping[str, Any] | Checker | Literal['requested'] | None"
#: A folder, or the files of a temporary one.
Workspace: TypeAlias = "str | os.PathLike[str] | Mapping[str, str | bytes] | None"

_ROOT_INDEX = "---\ntitle: Test workspace\ncontents: []\n---\n"


class SupervisorHarness:
    """Loads a folder of plugins; what tests drive is its ``supervisor``::

        with SupervisorHarness("plugins", workspace={"a.md": "Hello"}) as harness:
            assert harness.supervisor.command("my.words", "count") == {"words": 1}

    Args:
        plugins: a folder with a folder for each plugin, of which a copy is loaded; None: nothing is.
        permissions: ``{"read_files": ["all"]}`` and the like, for all; ``"requested"``: exactly what each manifest's
            ``requested_permissions`` say; None: everything is allowed.
        workspace: a folder that is used as it is, so copy it first if a plugin writes; or the files of a temporary
            one, text or bytes by name. A temporary one has an empty root index ``README.md`` unless it is given.
        events, storage, http, secrets, websockets: services to use in place of new ``RecordingEvents`` and so on: a
            host's own, or those of another harness.
        host_config: the supervisor's own configuration, ``config`` there.
        faults: what strikes its workers. A plugin is not quarantined for that, unless ``host_config.restart`` is set.
        interceptors, others: as with ``Supervisor``.

    Raises:
        LoadError and the errors of a call: a plugin does not load.
        SetupError, InvalidArgument: an argument cannot be used.

    Namespaces and whatever else keeps state are the embedded services in a temporary folder. ``close``, or the end of
    the ``with``, ends the processes and removes everything temporary.
    """

    def __init__(
        self,
        plugins: str | os.PathLike[str] | None = None,
        *,
        permissions: Permissions = None,
        workspace: Workspace = None,
        events: EventSink | None = None,
        storage: Storage | None = None,
        http: HttpClient | None = None,
        secrets: Secrets | None = None,
        websockets: WebSockets | None = None,
        host_config: Config | None = None,
        faults: Faults | None = None,
        interceptors: Sequence[Interceptor] = (),
        **others: Any,
    ) -> None:
        with ExitStack() as cleanup:
            self._plugins = plugins
            #: Temporary, and gone with the harness.
            self._folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="isoplug-test-")))
            #: The folder that the plugins see.
            self.workspace = _workspace(workspace, self._folder / "workspace")
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
                    state_dir=others.pop("state_dir", self._folder / "state"),
                    events=self.events,
                    storage=self.storage,
                    http=self.http,
                    secrets=self.secrets,
                    websockets=self.websockets,
                    config=host_config if faults is None else faults.patient(host_config),
                    permissions=self.permissions,
                    interceptors=(*interceptors, *(faults.interceptors if faults is not None else ())),
                    **others,
                )
            )
            if faults is not None:
                faults.watch_over(self.supervisor)
            self._load()
            if isinstance(self.permissions, RequestedPermissions):
                for plugin_id in self.supervisor.plugins:
                    self.permissions.require_usable(plugin_id)
            self._cleanup = cleanup.pop_all()

    def _load(self) -> None:
        """Raises LoadError, SetupError and the errors of a call."""
        if self._plugins is not None:
            scan(Path(self._plugins))  # says it better when there is no such folder
            copy = Path(shutil.copytree(self._plugins, self._folder / "plugins"))
            for files in scan(copy):
                self.supervisor.load_plugin(files.wasm)

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

    def _checker(self, permissions: Permissions) -> Checker:
        if permissions is None or isinstance(permissions, Mapping):
            return RecordingPermissions(permissions)
        if permissions == "requested":
            return RequestedPermissions(lambda plugin_id: self.supervisor.plugins[plugin_id].manifest)
        if isinstance(permissions, str):
            raise InvalidArgument(f"permissions must be rules, a checker or 'requested', not {permissions!r}")
        return permissions


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
