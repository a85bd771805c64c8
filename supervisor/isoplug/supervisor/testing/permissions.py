"""A checker that remembers what was asked, and decides as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.permissions import Checker, Decision, Permission, PluginRules, Verdict, check, parse_plugins
from isoplug.supervisor.plugins.manifest import Manifest

__all__ = ["Asked", "RecordingPermissions", "RequestedPermissions"]

#: Different checks that are remembered, and characters of a target: a guest may ask for anything, without end.
_MAX_CHECKS = 10_000
_TARGET_CHARACTERS = 4096


class Asked(NamedTuple):
    """``permission`` is a name of SPEC section 4 such as ``read_files``, which it equals as text."""

    plugin_id: str
    permission: Permission
    target: str
    is_allowed: bool


class RecordingPermissions(Checker):
    """``Checker`` for tests: the same rules for every plugin, and what was asked.

    Args:
        rules: in the front matter's form, ``{"read_files": {"include": ["all"], "exclude": ["private"]}}``, where a
            list stands for ``include`` alone. None allows everything; ``{}`` grants nothing (but storage).

    Raises:
        InvalidArgument: a rule cannot be used; the text names it.
    """

    def __init__(self, rules: Mapping[str, Any] | None = None) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Asked, None] = {}
        self._rules: PluginRules | None = None
        self.grant(rules)

    def grant(self, rules: Mapping[str, Any] | None) -> None:
        """From now on these rules instead. Raises InvalidArgument."""
        self._rules = None if rules is None else _usable(_parsed(rules))

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        rules = self.rules_of(plugin_id)
        decision = Decision(Verdict.ALLOWED) if rules is None else check(rules, permission, target)
        asked = Asked(plugin_id, permission, target[:_TARGET_CHARACTERS], decision.is_allowed)
        with self._lock:
            if len(self._asked) < _MAX_CHECKS:
                self._asked[asked] = None
        return decision

    def storage_quota_bytes(self, plugin_id: str) -> int | None:
        rules = self.rules_of(plugin_id)
        rule = None if rules is None else rules.rules.get(Permission.PLUGIN_STORAGE)
        return None if rule is None else rule.quota_bytes

    def rules_of(self, plugin_id: str) -> PluginRules | None:
        """None: everything is allowed."""
        return self._rules

    @property
    def asked(self) -> list[Asked]:
        """Each different check once, in order: what a plugin needs stands here after it ran with everything allowed."""
        with self._lock:
            return list(self._asked)

    def clear(self) -> None:
        with self._lock:
            self._asked.clear()


class RequestedPermissions(RecordingPermissions):
    """Grants what a plugin's manifest requests (``requested_permissions.defaults``), and nothing else.

    Args:
        manifest_of: the manifest of a plugin that is loaded, or is being loaded.
    """

    def __init__(self, manifest_of: Callable[[str], Manifest]) -> None:
        super().__init__({})
        self._manifest_of = manifest_of

    def rules_of(self, plugin_id: str) -> PluginRules:
        """With ``problem`` set when they cannot be used: then everything is denied, with that reason."""
        requested = self._manifest_of(plugin_id).requested_permissions
        return _parsed({} if requested is None else requested.defaults)

    def require_usable(self, plugin_id: str) -> None:
        """Raises InvalidArgument when what the manifest requests cannot be granted."""
        _usable(self.rules_of(plugin_id))


def _parsed(rules: Mapping[str, Any]) -> PluginRules:
    whole = {name: {"include": rule} if isinstance(rule, (list, tuple, str)) else rule for name, rule in rules.items()}
    return parse_plugins({"test": {"permissions": whole}})["test"]


def _usable(rules: PluginRules) -> PluginRules:
    if rules.problem:
        raise InvalidArgument(rules.problem.replace("plugins.test.", ""))
    return rules
