"""Who may do what: the rules, which are pure, and the checkers, which know where rules come from."""

from isoplug.supervisor.permissions.checkers import AllowAll, Checker, DenyAll, Frontmatter, denial
from isoplug.supervisor.permissions.rules import (
    Decision,
    MalformedRules,
    Permission,
    PluginRules,
    Rule,
    Verdict,
    check,
    parse_plugins,
)

__all__ = [
    "AllowAll",
    "Checker",
    "Decision",
    "DenyAll",
    "Frontmatter",
    "MalformedRules",
    "Permission",
    "PluginRules",
    "Rule",
    "Verdict",
    "check",
    "denial",
    "parse_plugins",
]
