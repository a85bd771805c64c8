"""Run other people's WebAssembly plugins, each in a process of its own.

with Supervisor(plugins_dir="plugins", workspace="journal") as supervisor:
    supervisor.command("diaryx.daily", "today")
"""

from __future__ import annotations

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
