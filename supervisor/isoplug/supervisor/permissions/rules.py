"""The permission rules of SPEC section 4, without I/O: `parse_plugins` once, then `check` for every target.

Two principles decide what the specification leaves open. **Includes are read literally, excludes
generously**: a scope that cannot be understood grants nothing as an include and closes everything as an
exclude, and an exclude also matches other spellings of a name (case, percent-encoding), since a folder may
fold case. **A mistake costs only its own plugin**: an entry that cannot be parsed is kept as a `PluginRules`
with a ``problem``, for which every check is denied with that text.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cached_property, lru_cache, partial
from typing import Final, TypeAlias, assert_never
from urllib.parse import unquote

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.workspace.path import components, link_target

__all__ = [
    "ALLOWED",
    "Decision",
    "MalformedRules",
    "Permission",
    "PluginRules",
    "Rule",
    "Verdict",
    "check",
    "parse_plugins",
]


class Permission(StrEnum):
    """The eight types of permission; values are the names in the front matter."""

    READ_FILES = "read_files"
    EDIT_FILES = "edit_files"
    CREATE_FILES = "create_files"
    DELETE_FILES = "delete_files"
    MOVE_FILES = "move_files"
    HTTP_REQUESTS = "http_requests"
    EXECUTE_COMMANDS = "execute_commands"
    PLUGIN_STORAGE = "plugin_storage"


class Verdict(Enum):
    ALLOWED = "allowed"
    DENIED = "denied"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and, unless it is *allowed*, why."""

    verdict: Verdict
    reason: str = ""

    @property
    def is_allowed(self) -> bool:
        return self.verdict is Verdict.ALLOWED


ALLOWED: Final = Decision(Verdict.ALLOWED)


@dataclass(frozen=True)
class Rule:
    """Scopes as written. ``quota_bytes`` counts for `plugin_storage` only."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    quota_bytes: int | None = None

    @cached_property
    def of_file(self) -> Callable[[str], Decision]:
        """What it says about a path, its scopes read once. It remembers what it was asked last: guests come back to the
        same files, and choose the paths, so it does not remember many."""
        return lru_cache(maxsize=128)(partial(_decide_file, _FileRule.of(self)))


@dataclass(frozen=True, slots=True)
class PluginRules:
    """One plugin's entry. ``problem`` is set when the entry could not be parsed; then there are no rules."""

    rules: Mapping[Permission, Rule] = field(default_factory=dict)
    download: str | None = None
    config: object = None
    problem: str = ""


class MalformedRules(InvalidArgument):
    """A `plugins` mapping, or an entry of it, cannot be used; the text names the key."""

    code = "malformed_rules"


# --- parsing ------------------------------------------------------------------------------------------------


def parse_plugins(value: object) -> dict[str, PluginRules]:
    """The `plugins` mapping of a root index, by plugin id.

    Numbers may be given as decimal text, since front matter is read as strings. Keys of an entry other than
    `permissions`, `download` and `config` belong to the application and are ignored, unless they look like a
    misspelt `permissions`.

    Raises:
        MalformedRules: ``value`` is not a mapping. A bad entry does not raise; see `PluginRules.problem`.
    """
    if _is_null(value):
        return {}
    plugins = {}
    for plugin_id, entry in _mapping(value, "plugins").items():
        try:
            plugins[plugin_id] = _plugin(entry, f"plugins.{plugin_id}")
        except MalformedRules as error:
            plugins[plugin_id] = PluginRules(problem=str(error))
    return plugins


def _plugin(value: object, key: str) -> PluginRules:
    entry = {} if _is_null(value) else _mapping(value, key)
    for name in entry:
        if name != "permissions" and difflib.get_close_matches(name, ["permissions"], cutoff=0.8):
            raise MalformedRules(f"{key} has no key {name!r}; did you mean 'permissions'?")
    download = entry.get("download")
    if download is not None and not isinstance(download, str):
        raise MalformedRules(f"{key}.download must be text, not {_kind(download)}")
    permissions = entry.get("permissions")
    rules: dict[Permission, Rule] = {}
    for name, rule in ({} if _is_null(permissions) else _mapping(permissions, f"{key}.permissions")).items():
        _require_known(name, [*Permission], f"{key}.permissions")
        if not _is_null(rule):
            rules[Permission(name)] = _rule(rule, f"{key}.permissions.{name}")
    return PluginRules(rules, download or None, entry.get("config"))


def _rule(value: object, key: str) -> Rule:
    entry = _mapping(value, key)
    for name in entry:
        _require_known(name, ["include", "exclude", "quota_bytes"], key)
    return Rule(
        _scopes(entry.get("include"), f"{key}.include"),
        _scopes(entry.get("exclude"), f"{key}.exclude"),
        _quota(entry.get("quota_bytes"), f"{key}.quota_bytes"),
    )


def _scopes(value: object, key: str) -> tuple[str, ...]:
    if _is_null(value):
        return ()
    scopes = []
    for scope in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(scope, str):
            raise MalformedRules(f"{key} must be a list of text, and contains {_kind(scope)}; quote links")
        scopes.append(scope)
    return tuple(scopes)


def _quota(value: object, key: str) -> int | None:
    if _is_null(value):
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise MalformedRules(f"{key} must be a number of bytes, such as 1048576")


def _mapping(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise MalformedRules(f"{key} must be a mapping, not {_kind(value)}")
    for name in value:
        if not isinstance(name, str):
            raise MalformedRules(f"{key} has a key that is not text")
    return dict(value)


def _require_known(name: str, known: list[str], key: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        advice = f"did you mean {str(nearest[0])!r}?" if nearest else f"known: {', '.join(known)}"
        raise MalformedRules(f"{key} has no key {name[:100]!r}; {advice}")


def _is_null(value: object) -> bool:
    # Front matter is read as strings, so YAML's nothing arrives in these spellings.
    return value is None or (isinstance(value, str) and value.strip() in ("", "~", "null", "Null", "NULL"))


def _kind(value: object) -> str:
    match value:
        case str():
            return f"the text {value[:50]!r}"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return type(value).__name__


# --- checking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A scope or target that cannot be understood, and why."""

    problem: str


# Whether a scope matches the target at hand; the flag says that the scope is an exclude.
_Matcher: TypeAlias = Callable[[str, bool], "bool | _Unusable"]


def check(rules: PluginRules | None, permission: Permission, target: str) -> Decision:
    """Whether a plugin with these ``rules`` (None: it has no entry) may do ``permission`` to ``target``.

    Targets: of files, a workspace-relative path; of `http_requests`, a bare host name or IP address in ASCII;
    of `execute_commands`, ``plugin_id:command``; of `plugin_storage`, anything. A target that cannot be
    understood is denied.
    """
    if rules is not None and rules.problem:
        return Decision(Verdict.DENIED, rules.problem)
    rule = None if rules is None else rules.rules.get(permission)
    if rule is None:
        if permission is Permission.PLUGIN_STORAGE:  # private to the plugin anyway
            return ALLOWED
        return Decision(Verdict.NOT_CONFIGURED, "no rule says anything about it")
    match permission:
        case (
            Permission.READ_FILES
            | Permission.EDIT_FILES
            | Permission.CREATE_FILES
            | Permission.DELETE_FILES
            | Permission.MOVE_FILES
        ):
            return rule.of_file(target)
        case Permission.PLUGIN_STORAGE:
            return _decide(rule, lambda _scope, _is_exclude: False)  # only `all` counts
        case Permission.HTTP_REQUESTS:
            return _decide(rule, _host_matcher(target))
        case Permission.EXECUTE_COMMANDS:
            return _decide(rule, _command_matcher(target))
        case _:
            assert_never(permission)


def _decide(rule: Rule, matches: _Matcher | _Unusable) -> Decision:
    if isinstance(matches, _Unusable):
        return Decision(Verdict.DENIED, matches.problem)
    for scope in rule.exclude:
        outcome = _is_all(scope) or matches(scope, True)
        if isinstance(outcome, _Unusable):
            return Decision(Verdict.DENIED, _closing(scope, outcome))
        if outcome:
            return Decision(Verdict.DENIED, _excluding(scope))
    reason = _NOT_COVERED
    for scope in rule.include:
        outcome = _is_all(scope) or matches(scope, False)
        if isinstance(outcome, _Unusable):
            reason += _not_opening(scope, outcome)
        elif outcome:
            return ALLOWED
    return Decision(Verdict.DENIED, reason)


_NOT_COVERED: Final = "no include scope covers it"


def _closing(scope: str, unusable: _Unusable) -> str:
    return f"exclude scope {scope!r} cannot be used ({unusable.problem}), so it closes everything"


def _excluding(scope: str) -> str:
    return f"excluded by {scope!r}"


def _not_opening(scope: str, unusable: _Unusable) -> str:
    return f"; include scope {scope!r} cannot be used ({unusable.problem})"


def _is_all(scope: str) -> bool:
    return scope.strip().lower() == "all"


# --- files --------------------------------------------------------------------------------------------------

_Parts: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _FileRule:
    """A rule for files, ready to be asked. What a scope reaches is a path and everything below it; the empty path is
    the workspace.

    ``closed``: what excludes reach, case-folded, with the rank of the first one that does and what it says.
    ``opened``: what includes reach. ``otherwise``: why nothing else is. ``depth``: of the deepest path in either.
    """

    closed: Mapping[_Parts, tuple[int, str]]
    opened: frozenset[_Parts]
    otherwise: str
    depth: int

    @classmethod
    def of(cls, rule: Rule) -> _FileRule:
        closed: dict[_Parts, tuple[int, str]] = {}
        for rank, scope in enumerate(rule.exclude):
            spellings = ((),) if _is_all(scope) else _file_scope(scope)
            if isinstance(spellings, _Unusable):
                closed.setdefault((), (rank, _closing(scope, spellings)))
                continue
            for spelling in spellings:
                closed.setdefault(_reach(_folded(spelling)), (rank, _excluding(scope)))
        opened: set[_Parts] = set()
        otherwise = _NOT_COVERED
        for scope in rule.include:
            spellings = ((),) if _is_all(scope) else _file_scope(scope)
            if isinstance(spellings, _Unusable):
                otherwise += _not_opening(scope, spellings)
            else:
                opened.add(_reach(spellings[0]))
        return cls(closed, frozenset(opened), otherwise, max(map(len, (*closed, *opened)), default=0))

    def ways_to(self, parts: _Parts) -> list[_Parts]:
        """The path itself and what it lies in, as deep as any scope reaches."""
        return [parts[:length] for length in range(min(len(parts), self.depth) + 1)]


def _decide_file(rule: _FileRule, target: str) -> Decision:
    parts = components(target)
    if ".." in parts or "\0" in target:
        return Decision(Verdict.DENIED, "the target is not a path inside the workspace")
    if rule.closed:
        refusals = [rule.closed[way] for way in rule.ways_to(_folded(parts)) if way in rule.closed]
        if refusals:
            return Decision(Verdict.DENIED, min(refusals)[1])
    if rule.opened.isdisjoint(rule.ways_to(parts)):
        return Decision(Verdict.DENIED, rule.otherwise)
    return ALLOWED


def _reach(scope: _Parts) -> _Parts:
    """A folder's index file stands for its folder."""
    return scope[:-1] if len(scope) > 1 and scope[-1].lower().endswith(".md") else scope


def _file_scope(scope: str) -> tuple[_Parts, ...] | _Unusable:
    """The path that a scope names, as written, and then other ways to read it, which count for excludes
    only."""
    target = link_target(scope)
    if target is None:
        return _Unusable("it begins like a Markdown link and does not end like one")
    if target != scope and (scope.count("](") > 1 or target.endswith('"')):
        return _Unusable("it is not clear where the path in this Markdown link begins and ends")
    spellings = []
    for text in (target, unquote(target), re.sub(r"\\(?=[^\w\s])", "", target)):  # as is, %20, Markdown's \\(
        parts = components(text)
        if ".." in parts or "\0" in text:
            return _Unusable("it contains '..' or a NUL byte")
        if not parts:
            return _Unusable("it names no file or folder; 'all' stands for everything")
        spellings.append(parts)
    # Letter by letter: names may begin or end with blanks, and look like links.
    return tuple(dict.fromkeys([*spellings, components(scope)]))


def _folded(parts: _Parts) -> _Parts:
    # Unicode's canonical caseless match (D145), which is what case-folding file systems come to.
    text = "/".join(parts)
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return tuple(folded.split("/")) if parts else ()


# --- hosts --------------------------------------------------------------------------------------------------

_Host: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address | _Parts"


def _host_matcher(target: str) -> _Matcher | _Unusable:
    host = _host(target)
    if isinstance(host, _Unusable):
        return _Unusable(f"the target {host.problem}")

    def matches(scope: str, _is_exclude: bool) -> bool | _Unusable:
        domain = _host(scope.strip())
        if isinstance(domain, _Unusable):
            return _Unusable(f"it {domain.problem}")
        if isinstance(host, tuple) and isinstance(domain, tuple):
            return host[-len(domain) :] == domain
        return host == domain

    return matches


def _host(text: str) -> _Host | _Unusable:
    """Labels of a domain, or an address (an IPv4 address in IPv6 clothes is the IPv4 address)."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        labels = tuple(text.lower().removesuffix(".").split("."))
        if len(text) > 254 or not all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels):
            return _Unusable("is not a plain domain name or IP address in ASCII (international names: xn--...)")
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # URL parsers read 127.1 and 0x7f.1 as addresses
            return _Unusable("is an IP address in an unusual spelling")
        return labels
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))  # without a zone
    return address


# --- commands -----------------------------------------------------------------------------------------------


def _command_matcher(target: str) -> _Matcher | _Unusable:
    plugin_id, _, command = target.partition(":")
    if not plugin_id or not command:
        return _Unusable("the target is not of the form plugin_id:command")

    def matches(scope: str, is_exclude: bool) -> bool | _Unusable:
        scope_id, colon, scope_command = scope.strip().partition(":")
        if not scope_id or (colon and not scope_command):
            return _Unusable("it is not of the form plugin_id or plugin_id:command")
        if is_exclude and scope == target:  # letter by letter: names may end with blanks
            return True
        return scope_id == plugin_id and (not colon or scope_command in ("*", command))

    return matches
