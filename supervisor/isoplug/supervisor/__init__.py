"""Run other people's WebAssembly plugins, each in a process of its own.

    with Supervisor(plugins_dir="plugins", workspace="journal") as supervisor:
        supervisor.command("diaryx.daily", "today")

The names below are imported when they are first used: the command line lives in this package too, and should not wait
for what ``isoplug --version`` does not need.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoplug.shared.errors import (
        AppVersionTooOld,
        CallCancelled,
        CallTimeout,
        CommandError,
        CommandNotFound,
        ConfigError,
        CrashReason,
        DepthLimitExceeded,
        GuestTrap,
        InvalidArgument,
        LoadError,
        PermissionDenied,
        PluginBusy,
        PluginError,
        PluginNotFound,
        PluginQuarantined,
        PoisonedInput,
        ProtocolMismatch,
        ResourceLimitExceeded,
        ServiceError,
        SetupError,
        SupervisorClosed,
        WorkerCrashed,
        WorkerLimitExceeded,
    )
    from isoplug.shared.record import CallRecord, Denial, Effect, Outcome
    from isoplug.supervisor.aio import AsyncSupervisor
    from isoplug.supervisor.caller import Caller
    from isoplug.supervisor.calls import Cancellation, Delivery, Interceptor, Poisoned, Proceed
    from isoplug.supervisor.config import Config
    from isoplug.supervisor.egress import HttpClient, HttpRequest, HttpResponse
    from isoplug.supervisor.host import EventSink, FileSource, RuntimeContext
    from isoplug.supervisor.inspection import inspect
    from isoplug.supervisor.namespaces import NamespaceProvider
    from isoplug.supervisor.observe.status import PluginStatus
    from isoplug.supervisor.permissions import AllowAll, Checker, Decision, DenyAll, Frontmatter, Permission, Verdict
    from isoplug.supervisor.plugins.manifest import Manifest
    from isoplug.supervisor.plugins.table import Plugin
    from isoplug.supervisor.reload import LoadProgress, ReloadReport
    from isoplug.supervisor.replaying import Replayed, replay
    from isoplug.supervisor.secrets import Secrets
    from isoplug.supervisor.storage import Storage
    from isoplug.supervisor.supervisor import Supervisor
    from isoplug.supervisor.websockets import WebSockets
    from isoplug.supervisor.workspace import FileSystem

__all__ = [
    "AllowAll",
    "AppVersionTooOld",
    "AsyncSupervisor",
    "CallCancelled",
    "CallRecord",
    "CallTimeout",
    "Caller",
    "Cancellation",
    "Checker",
    "CommandError",
    "CommandNotFound",
    "Config",
    "ConfigError",
    "CrashReason",
    "Decision",
    "Delivery",
    "Denial",
    "DenyAll",
    "DepthLimitExceeded",
    "Effect",
    "EventSink",
    "FileSource",
    "FileSystem",
    "Frontmatter",
    "GuestTrap",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "IntegrityError",
    "Interceptor",
    "InvalidArgument",
    "LoadError",
    "LoadProgress",
    "Manifest",
    "NamespaceProvider",
    "NothingDone",
    "Outcome",
    "Permission",
    "PermissionDenied",
    "Plugin",
    "PluginBusy",
    "PluginError",
    "PluginNotFound",
    "PluginQuarantined",
    "PluginStatus",
    "Poisoned",
    "PoisonedInput",
    "Proceed",
    "ProtocolMismatch",
    "ReloadReport",
    "Replayed",
    "ResourceLimitExceeded",
    "RuntimeContext",
    "Secrets",
    "ServiceError",
    "SetupError",
    "Storage",
    "Supervisor",
    "SupervisorClosed",
    "Verdict",
    "WebSockets",
    "WorkerCrashed",
    "WorkerLimitExceeded",
    "inspect",
    "replay",
]

_HOMES = {
    "AllowAll": "isoplug.supervisor.permissions",
    "AsyncSupervisor": "isoplug.supervisor.aio",
    "CallRecord": "isoplug.shared.record",
    "Caller": "isoplug.supervisor.caller",
    "Cancellation": "isoplug.supervisor.calls",
    "Checker": "isoplug.supervisor.permissions",
    "Config": "isoplug.supervisor.config",
    "Decision": "isoplug.supervisor.permissions",
    "Delivery": "isoplug.supervisor.calls",
    "Denial": "isoplug.shared.record",
    "DenyAll": "isoplug.supervisor.permissions",
    "Effect": "isoplug.shared.record",
    "EventSink": "isoplug.supervisor.host",
    "FileSource": "isoplug.supervisor.host",
    "FileSystem": "isoplug.supervisor.workspace",
    "Frontmatter": "isoplug.supervisor.permissions",
    "HttpClient": "isoplug.supervisor.egress",
    "HttpRequest": "isoplug.supervisor.egress",
    "HttpResponse": "isoplug.supervisor.egress",
    "Interceptor": "isoplug.supervisor.calls",
    "LoadProgress": "isoplug.supervisor.reload",
    "Manifest": "isoplug.supervisor.plugins.manifest",
    "NamespaceProvider": "isoplug.supervisor.namespaces",
    "NothingDone": "isoplug.supervisor.egress",
    "Outcome": "isoplug.shared.record",
    "Permission": "isoplug.supervisor.permissions",
    "Plugin": "isoplug.supervisor.plugins.table",
    "PluginStatus": "isoplug.supervisor.observe.status",
    "Poisoned": "isoplug.supervisor.calls",
    "Proceed": "isoplug.supervisor.calls",
    "ReloadReport": "isoplug.supervisor.reload",
    "Replayed": "isoplug.supervisor.replaying",
    "RuntimeContext": "isoplug.supervisor.host",
    "Secrets": "isoplug.supervisor.secrets",
    "Storage": "isoplug.supervisor.storage",
    "Supervisor": "isoplug.supervisor.supervisor",
    "Verdict": "isoplug.supervisor.permissions",
    "WebSockets": "isoplug.supervisor.websockets",
    "inspect": "isoplug.supervisor.inspection",
    "replay": "isoplug.supervisor.replaying",
}


def __getattr__(name: str) -> Any:
    """PEP 562: the errors come from ``isoplug.shared.errors``, everything else from where ``_HOMES`` says."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOMES and sys.platform == "win32":  # where not even the imports below would work
        import_module("isoplug.supervisor.machine").check_platform()
    value = getattr(import_module(_HOMES.get(name, "isoplug.shared.errors")), name)
    globals()[name] = value
    return value
