"""The embedded small services, used where the host puts nothing else in, and what a guest without an id gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.egress import HttpRequest, HttpResponse, HttpUrl
from isoplug.supervisor.host.services import Services
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import Checker, DenyAll, Permission
from isoplug.supervisor.websockets import Desk, NoSockets

__all__ = [
    "LogSink",
    "NoHttp",
    "NoOfferedFiles",
    "NoSecrets",
    "NoStorage",
    "WorkspaceContext",
    "for_nobody",
    "no_sockets",
]

_log = get_logger(__name__)


class LogSink:
    """An event sink that logs that an event came, not what is in it."""

    def emit(self, plugin_id: str, event_json: str) -> None:
        _log.info("guest.event", plugin=plugin_id, characters=len(event_json))


class NoOfferedFiles:
    """A file source that offers nothing beyond what a call brings with it."""

    def read(self, plugin_id: str, key: str) -> bytes | None:
        return None


class NoHttp:
    """For looking at a module, which reaches no network."""

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        raise ServiceError("there is no network here", plugin_id=caller.plugin_id)


class WorkspaceContext:
    """A runtime context that knows the workspace and, where the host has one, the server. The token is only for those
    who may talk to the server that it is for."""

    def __init__(
        self,
        workspace: Path | None,
        permissions: Checker,
        server_url: str | None = None,
        auth_token: str | None = None,
    ) -> None:
        """Raises ServiceError for a ``server_url`` that is none."""
        self._workspace = workspace
        self._permissions = permissions
        self._server_url, self._auth_token = server_url, auth_token
        self._server_host = None if server_url is None else HttpUrl.parse(server_url).host

    def get(self, plugin_id: str) -> dict[str, Any]:
        current = None
        if self._workspace is not None:
            current = {"id": self._workspace.name, "path": str(self._workspace), "provider_links": []}
        return {"server_url": self._server_url, "auth_token": self._token_for(plugin_id), "current_workspace": current}

    def _token_for(self, plugin_id: str) -> str | None:
        if self._server_host is None:
            return None
        may_use = self._permissions.check(plugin_id, Permission.HTTP_REQUESTS, self._server_host).is_allowed
        return self._auth_token if may_use else None


class NoStorage:
    """For a host that has neither workspace nor plugins folder: nothing says where state should live."""

    def get(self, plugin_id: str, key: str) -> bytes | None:
        raise _no_storage(plugin_id)

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        raise _no_storage(plugin_id)


def _no_storage(plugin_id: str) -> ServiceError:
    return ServiceError("this supervisor has no storage; give it state_dir= or a workspace", plugin_id=plugin_id)


class NoSecrets:
    """``NoStorage`` for secrets."""

    def get(self, plugin_id: str, key: str) -> str | None:
        raise _no_secrets(plugin_id)

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        raise _no_secrets(plugin_id)

    def delete(self, plugin_id: str, key: str) -> None:
        raise _no_secrets(plugin_id)


def _no_secrets(plugin_id: str) -> ServiceError:
    return ServiceError("this supervisor keeps no secrets; give it state_dir= or a workspace", plugin_id=plugin_id)


class _NoContext:
    """Not even the shape: a runtime context may hold a token."""

    def get(self, plugin_id: str) -> dict[str, Any]:
        return {}


def no_sockets() -> Desk:
    """For looking at a module, which connects to nothing."""
    return Desk(NoSockets(), DenyAll(), max_messages=1, max_bytes=1)


def for_nobody(services: Services) -> Services:
    """``services`` as a guest sees them that has not said who it is: it has no rules, no files, no context, and its
    events reach nobody."""
    return replace(
        services,
        permissions=DenyAll(),
        events=LogSink(),
        files=NoOfferedFiles(),
        runtime_context=_NoContext(),
        websockets=no_sockets(),
        namespaces=None,
    )
