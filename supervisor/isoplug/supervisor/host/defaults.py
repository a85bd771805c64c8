"""The embedded small services, used where the host puts nothing else in, and what a guest without an id gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.host.services import Services
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import DenyAll

__all__ = ["LogSink", "NoOfferedFiles", "NoStorage", "WorkspaceContext", "for_nobody"]

_log = get_logger(__name__)


class LogSink:
    """An event sink that logs that an event came, not what is in it."""

    def emit(self, plugin_id: str, event_json: str) -> None:
        _log.info("guest.event", plugin=plugin_id, characters=len(event_json))


class NoOfferedFiles:
    """A file source that offers nothing beyond what a call brings with it."""

    def read(self, plugin_id: str, key: str) -> bytes | None:
        return None


class WorkspaceContext:
    """A runtime context that knows the workspace, and no server."""

    def __init__(self, workspace: Path | None) -> None:
        self._workspace = workspace

    def get(self, plugin_id: str) -> dict[str, Any]:
        current = None
        if self._workspace is not None:
            current = {"id": self._workspace.name, "path": str(self._workspace), "provider_links": []}
        return {"server_url": None, "auth_token": None, "current_workspace": current}


class NoStorage:
    """For a host that has neither workspace nor plugins folder: nothing says where state should live."""

    def get(self, plugin_id: str, key: str) -> bytes | None:
        raise _no_storage(plugin_id)

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        raise _no_storage(plugin_id)

    def close(self) -> None:
        """Nothing to close."""


def _no_storage(plugin_id: str) -> ServiceError:
    return ServiceError("this supervisor has no storage; give it state_dir= or a workspace", plugin_id=plugin_id)


class _NoContext:
    """Not even the shape: a runtime context may hold a token."""

    def get(self, plugin_id: str) -> dict[str, Any]:
        return {}


def for_nobody(services: Services) -> Services:
    """``services`` as a guest sees them that has not said who it is: it has no rules, no files, no context, and its
    events reach nobody."""
    return replace(
        services,
        permissions=DenyAll(),
        events=LogSink(),
        files=NoOfferedFiles(),
        runtime_context=_NoContext(),
    )
