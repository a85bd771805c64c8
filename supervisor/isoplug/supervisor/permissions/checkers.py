"""Who is asked before a host function does anything: a checker, which answers for one plugin, permission and
target.

`Frontmatter` is the default of a supervisor with a workspace; `DenyAll` where there is none; `AllowAll` is
for trusted bootstrap and tests. A host that wants another, for example one that asks a person and remembers
the answer, subclasses `Checker` and writes `check`. The rules themselves are in `rules`; here they are
fetched. `denial` turns an answer into the error that guests and hosts see.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from isoplug.shared.errors import PermissionDenied, ServiceError
from isoplug.supervisor.permissions.rules import (
    ALLOWED,
    Decision,
    MalformedRules,
    Permission,
    PluginRules,
    Verdict,
    check,
    parse_plugins,
)
from isoplug.supervisor.workspace import frontmatter
from isoplug.supervisor.workspace.path import WorkspacePath

if TYPE_CHECKING:
    from pathlib import Path

    from isoplug.supervisor.workspace.rootindex import RootIndex

__all__ = ["AllowAll", "Checker", "DenyAll", "Frontmatter", "denial"]

_SHOWN_TARGET_CHARACTERS: Final = 200
_ATTEMPTS: Final = 3
_RACY_NS: Final = 50_000_000
"""A file that changed less than this before it was read may change again without its times moving: git's
"racily clean" rule. Kernel time stamps are as coarse as a timer tick (4 to 10 ms), network file systems
coarser."""


class Checker(Protocol):
    """Answers permission checks. Called from any thread, once or more per host call, so it should be quick,
    or remember."""

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        """Only an *allowed* decision lets the call through. Must not raise for what a guest may ask."""
        ...

    def storage_quota_bytes(self, plugin_id: str) -> int | None:
        """The plugin's storage quota, or None for the configured default."""
        return None


class DenyAll(Checker):
    """Denies everything, also storage: the default where there is no workspace and the host named no
    checker."""

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        return Decision(Verdict.DENIED, "no permissions are configured in this host")


class AllowAll(Checker):
    """Allows everything. For trusted bootstrap and tests."""

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        return ALLOWED


_Rules: TypeAlias = Mapping[str, PluginRules]
_Signature: TypeAlias = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The root index as read once. ``problem`` says why there are no rules; then everything is denied.

    ``head`` is what it was read from. When ``is_trusted`` is False, the file may change unseen: each check reads it,
    and interprets it when it reads another head.
    """

    rules: _Rules = field(default_factory=dict)
    problem: str = ""
    head: bytes | None = field(default=None, repr=False)
    signature: _Signature | None = None
    is_trusted: bool = False


class Frontmatter(Checker):
    """Reads the `plugins` mapping in the front matter of the workspace's root index, and reads it again when
    it changed.

    Without a root index, or when it cannot be read, everything is denied with a reason that says so. Safe to use
    from several threads: the only state is an immutable snapshot, replaced whole. Two threads may read the same
    change twice, and an older snapshot that is stored last is noticed by its signature at the next check.

    Args:
        workspace_root: the workspace directory; absolute targets inside it are made relative to it.
        root_index: what `find_root_index` answered.
    """

    def __init__(self, workspace_root: Path, root_index: RootIndex) -> None:
        self._root = workspace_root
        self._root_index = root_index
        self._path = None if root_index.path is None else os.path.join(workspace_root, *root_index.path.parts)
        self._snapshot = _Snapshot()

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        snapshot = self._current()
        if snapshot.problem:
            return Decision(Verdict.DENIED, snapshot.problem)
        if permission in _FILE_PERMISSIONS:
            try:
                target = WorkspacePath.parse(target, self._root).text
            except ServiceError as error:
                return Decision(Verdict.DENIED, str(error))
        return check(snapshot.rules.get(plugin_id), permission, target)

    def storage_quota_bytes(self, plugin_id: str) -> int | None:
        rules = self.rules(plugin_id)
        rule = None if rules is None else rules.rules.get(Permission.PLUGIN_STORAGE)
        return None if rule is None else rule.quota_bytes

    def rules(self, plugin_id: str) -> PluginRules | None:
        """The plugin's entry as it stands now, None when there is none or the root index cannot be read."""
        return self._current().rules.get(plugin_id)

    def _current(self) -> _Snapshot:
        if self._path is None:
            return _Snapshot(problem=self._root_index.reason or "the workspace has no root index")
        snapshot = self._snapshot
        try:
            if not snapshot.is_trusted or _signature(os.lstat(self._path)) != snapshot.signature:
                snapshot = self._snapshot = _read(self._path, str(self._root_index.path), snapshot)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            name = str(self._root_index.path)
            return _Snapshot(problem=f"the root index {name!r} cannot be read: {reason}")
        return snapshot


_FILE_PERMISSIONS: Final = frozenset(
    {
        Permission.READ_FILES,
        Permission.EDIT_FILES,
        Permission.CREATE_FILES,
        Permission.DELETE_FILES,
        Permission.MOVE_FILES,
    }
)


def _read(path: str, name: str, known: _Snapshot) -> _Snapshot:
    """Read the root index. Raises OSError. A file that changes meanwhile is read again, since half of an old
    and half of a new `plugins` is neither."""
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return _Snapshot(problem=f"the root index {name!r} is not a regular file")
            read_at_ns = time.time_ns()
            data = stream.read(frontmatter.HEAD_BYTES)
            after = os.fstat(descriptor)
        # Not ctime: a file that is replaced while it is read loses its name, which changes that and nothing else.
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            changed_at_ns = max(before.st_mtime_ns, before.st_ctime_ns)
            snapshot = known if data == known.head else _interpret(data, name)
            is_trusted = read_at_ns - changed_at_ns > _RACY_NS
            return replace(snapshot, signature=_signature(before), is_trusted=is_trusted)
    return _Snapshot(problem=f"the root index {name!r} is being changed while it is read")


def _interpret(head: bytes, name: str) -> _Snapshot:
    try:
        rules = parse_plugins(frontmatter.parse(head).get("plugins"))
    except (ServiceError, MalformedRules) as error:
        return _Snapshot(problem=f"the root index {name!r} grants nothing: {error}", head=head)
    return _Snapshot(rules, head=head)


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def denial(plugin_id: str, permission: Permission, target: str, decision: Decision) -> PermissionDenied:
    """The error for a decision that is not *allowed*: names plugin, permission and target, and what to do
    about it."""
    shown = target if len(target) <= _SHOWN_TARGET_CHARACTERS else f"{target[:_SHOWN_TARGET_CHARACTERS]}..."
    shown = shown.encode(errors="backslashreplace").decode()
    what = f"for plugin {plugin_id!r}: {permission} on {shown!r}"
    if decision.verdict is Verdict.NOT_CONFIGURED:
        key = f"plugins.{plugin_id}.permissions.{permission}"
        message = f"Permission not configured {what}. Add {key} to the front matter of the root index"
    else:
        message = f"Permission denied {what}" + (f" ({decision.reason})" if decision.reason else "")
    return PermissionDenied(plugin_id, message, permission=str(permission), target=target)
