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

from isoplug.supervisor.machine import check_platform

if TYPE_CHECKING:
    from isoplug.shared.errors import (
        AppVersionTooOld,
        CallCancelled,
        CallTimeout,
        CommandError,
        CommandNotFound,
        ConfigError,
        DepthLimitExceeded,
        GuestTrap,
        InvalidArgument,
        LoadError,
        PermissionDenied,
        PluginError,
        PluginNotFound,
        PluginQuarantined,
        ProtocolMismatch,
        ResourceLimitExceeded,
        ServiceError,
        SetupError,
        SupervisorClosed,
        WorkerCrashed,
    )
    from isoplug.supervisor.aio import AsyncSupervisor
    from isoplug.supervisor.config import Config
    from isoplug.supervisor.inspection import inspect
    from isoplug.supervisor.observe.status import PluginStatus
    from isoplug.supervisor.permissions import AllowAll, Checker, Decision, DenyAll, Frontmatter, Permission, Verdict
    from isoplug.supervisor.plugins.manifest import Manifest
    from isoplug.supervisor.plugins.table import Plugin
    from isoplug.supervisor.supervisor import Supervisor

__all__ = [
    "AllowAll",
    "AppVersionTooOld",
    "AsyncSupervisor",
    "CallCancelled",
    "CallTimeout",
    "Checker",
    "CommandError",
    "CommandNotFound",
    "Config",
    "ConfigError",
    "Decision",
    "DenyAll",
    "DepthLimitExceeded",
    "Frontmatter",
    "GuestTrap",
    "InvalidArgument",
    "LoadError",
    "Manifest",
    "Permission",
    "PermissionDenied",
    "Plugin",
    "PluginError",
    "PluginNotFound",
    "PluginQuarantined",
    "PluginStatus",
    "ProtocolMismatch",
    "ResourceLimitExceeded",
    "ServiceError",
    "SetupError",
    "Supervisor",
    "SupervisorClosed",
    "Verdict",
    "WorkerCrashed",
    "inspect",
]

_HOMES = {
    "AllowAll": "isoplug.supervisor.permissions",
    "AsyncSupervisor": "isoplug.supervisor.aio",
    "Checker": "isoplug.supervisor.permissions",
    "Config": "isoplug.supervisor.config",
    "Decision": "isoplug.supervisor.permissions",
    "DenyAll": "isoplug.supervisor.permissions",
    "Frontmatter": "isoplug.supervisor.permissions",
    "Manifest": "isoplug.supervisor.plugins.manifest",
    "Permission": "isoplug.supervisor.permissions",
    "Plugin": "isoplug.supervisor.plugins.table",
    "PluginStatus": "isoplug.supervisor.observe.status",
    "Supervisor": "isoplug.supervisor.supervisor",
    "Verdict": "isoplug.supervisor.permissions",
    "inspect": "isoplug.supervisor.inspection",
}


def __getattr__(name: str) -> Any:
    """PEP 562: the errors come from ``isoplug.shared.errors``, everything else from where ``_HOMES`` says."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOMES and sys.platform == "win32":  # where not even the imports below would work
        check_platform()
    value = getattr(import_module(_HOMES.get(name, "isoplug.shared.errors")), name)
    globals()[name] = value
    return value
