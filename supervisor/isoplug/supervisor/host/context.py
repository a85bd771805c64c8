"""Who is calling: what a host function knows about the call it serves. Looked up, never carried by a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from isoplug.shared.errors import ServiceError
from isoplug.shared.record import CallRecord
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.host.note import Note
from isoplug.supervisor.host.services import Services
from isoplug.supervisor.permissions import Permission, denial
from isoplug.supervisor.workspace import FileSystem, WorkspacePath

__all__ = ["HostContext"]


@dataclass(slots=True)
class HostContext:
    """``run_command(plugin_id, command, params)`` runs a nested command; ``is_cancelled(token)`` asks about a token.
    ``note`` is that of the host call in progress: a worker makes one at a time."""

    caller: Caller
    services: Services
    offered_files: Mapping[str, bytes]
    is_cancelled: Callable[[str], bool]
    run_command: Callable[[str, str, Any], Any]
    record: CallRecord
    note: Note = field(default_factory=Note)

    @property
    def plugin_id(self) -> str:
        return self.caller.plugin_id

    def require(self, permission: Permission, target: str) -> None:
        """Raises PermissionDenied unless the checker says allowed, ServiceError when the call has ended meanwhile."""
        decision = self.services.permissions.check(self.plugin_id, permission, target)
        if not decision.is_allowed:
            raise denial(self.plugin_id, permission, target, decision)
        self.note.begin()

    def allows(self, permission: Permission, target: str) -> bool:
        return self.services.permissions.check(self.plugin_id, permission, target).is_allowed

    @property
    def filesystem(self) -> FileSystem:
        if self.services.filesystem is None:
            raise ServiceError("this host has no workspace", plugin_id=self.plugin_id)
        return self.services.filesystem

    def path(self, text: str) -> WorkspacePath:
        """Raises ServiceError for everything that does not name something inside the workspace."""
        path = WorkspacePath.parse(text, self.services.workspace)
        self.note.target = path.text  # one file has one name in records, however guests spell it
        return path

    @property
    def storage_quota_bytes(self) -> int:
        """For all values of the plugin together: what its rule says, else the configuration."""
        # A checker that does not subclass Checker, and so has no default for it, need only have ``check``.
        quota_of = getattr(self.services.permissions, "storage_quota_bytes", None)
        own = None if quota_of is None else quota_of(self.plugin_id)
        return self.services.storage_quota_bytes if own is None else own

    def check_deadline(self) -> None:
        """For loops over many files: raises ServiceError when the call's time is up."""
        if self.caller.deadline.has_passed:
            raise ServiceError("the call's time is up", plugin_id=self.plugin_id)
