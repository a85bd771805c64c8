"""What host functions work with: one small Protocol a service, so that a host can put its own in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.namespaces import NamespaceProvider
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import Checker
from isoplug.supervisor.secrets import Secrets
from isoplug.supervisor.storage import Storage
from isoplug.supervisor.wasi import WasiRunner
from isoplug.supervisor.websockets import Desk
from isoplug.supervisor.workspace import FileSystem, WorkspacePath

__all__ = ["EventSink", "FileSource", "RuntimeContext", "Services"]

_log = get_logger(__name__)


class EventSink(Protocol):
    """Receives what guests emit with ``host_emit_event``, and what they answer to ``set_config``."""

    def emit(self, plugin_id: str, event_json: str) -> None:
        """``event_json`` is any JSON text. The guest's call waits until this returns; what it raises is logged."""


class FileSource(Protocol):
    """Files that the host offers to guests (``host_request_file``) beyond those offered with a call."""

    def read(self, plugin_id: str, key: str) -> bytes | None:
        """The bytes offered to ``plugin_id`` under ``key``, or None."""


class RuntimeContext(Protocol):
    """What ``host_get_runtime_context`` answers."""

    def get(self, plugin_id: str) -> dict[str, Any]:
        """A JSON object: ``server_url``, ``auth_token``, ``current_workspace`` (``{id, path, provider_links}``)."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that guests reach through their supervisor. ``filesystem`` is None when there is no workspace,
    ``namespaces`` when nothing says where they should be kept.

    ``may_block``: some of it is the host's own code, which may take longer than a call has; it then runs in a thread of
    its own, which a call can leave behind at its deadline.
    """

    permissions: Checker
    storage: Storage
    secrets: Secrets
    events: EventSink
    files: FileSource
    runtime_context: RuntimeContext
    http: HttpClient
    websockets: Desk
    namespaces: NamespaceProvider | None
    wasi: WasiRunner
    filesystem: FileSystem | None
    root_index: WorkspacePath | None
    workspace: Path | None
    storage_quota_bytes: int
    frame_bytes: int
    may_block: bool

    def emit(self, plugin_id: str, event_json: str) -> None:
        """Hand an event to the sink. A sink that fails is the host's own affair: it costs no guest its call."""
        try:
            self.events.emit(plugin_id, event_json)
        except Exception:  # noqa: BLE001  a sink of the host's own may raise anything
            _log.exception("event_sink.failed", plugin=plugin_id)
