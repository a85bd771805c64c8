"""The guest manifest (SPEC section 2): who a plugin says it is, what it offers, and whether it fits this
host.

A manifest is a guest's word. It decides what is *offered* (commands, events), never what is allowed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from isoplug.shared.errors import AppVersionTooOld, LoadError, ProtocolMismatch
from isoplug.supervisor.config import parse_version
from isoplug.supervisor.files import read_bounded, reason, write_atomically
from isoplug.supervisor.observe import get_logger
from isoplug.supervisor.plugins.json_object import dump_object, parse_object

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "KNOWN_CAPABILITIES",
    "MAXIMUM_PROTOCOL_VERSION",
    "MAX_MANIFEST_BYTES",
    "MINIMUM_PROTOCOL_VERSION",
    "Manifest",
    "RequestedPermissions",
    "ServerFunction",
    "check_compatible",
    "parse_manifest",
    "read_cached",
    "write_cached",
]

MINIMUM_PROTOCOL_VERSION: Final = 1
MAXIMUM_PROTOCOL_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_ID_CHARACTERS: Final = 200

KNOWN_CAPABILITIES: Final = frozenset(
    {
        "crdt_commands",
        "custom_commands",
        "declarative_config",
        "editor_extension",
        "file_events",
        "media_transcoder",
        "sync_transport",
        "workspace_events",
    }
)

_MAX_PROBLEMS: Final = 5

_log = get_logger(__name__)


def _checked_id(value: Any) -> Any:
    """Ids such as ``diaryx.sync`` stand in scopes (``id:command``, ``id:*``, ``all``) and in front matter."""
    if not isinstance(value, str):
        return value
    if not 1 <= len(value) <= MAX_ID_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_ID_CHARACTERS} characters, not {len(value)}")
    # isprintable() is False for control and format characters (also those that reverse the reading
    # direction), for lone surrogates and for every white space but U+0020.
    if not value.isprintable() or any(character in " :/\\*" for character in value):
        raise ValueError(f"must be printable, without white space and without : / \\ *, not {value!r}")
    if value.casefold() == "all" or not value.strip("."):
        raise ValueError(f"must not be {value!r}: scopes and paths use that word for something else")
    return value


def _object_or_none(value: Any) -> Any:
    """Only shown to people, so a strange one is dropped rather than a reason to refuse the plugin."""
    if isinstance(value, RequestedPermissions):
        return value
    if not isinstance(value, dict):
        return None
    return {
        key: member for key, member in value.items() if key not in ("defaults", "reasons") or isinstance(member, dict)
    }


def _only_true(value: Any) -> bool:
    """A field of isoplug's own: what another host may have meant by it is no reason to refuse the plugin."""
    return value is True


class _Part(BaseModel):
    # strict: a manifest with `"version": 1` is refused, as serde does in the reference host. allow: fields of
    # later versions are kept, and go into the cache again.
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class RequestedPermissions(_Part):
    """What the plugin asks for at installation, kept as given; nothing here grants anything."""

    defaults: dict[str, Any] = {}
    reasons: dict[str, Any] = {}


class ServerFunction(_Part):
    """A server's endpoint that the plugin says it uses; documentation only."""

    name: str
    method: str
    path: str
    description: str


# Lists of a manifest as tuples, so that a frozen manifest is one. Not strict: JSON's list is not a tuple.
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Objects = Annotated[tuple[dict[str, Any], ...], Field(strict=False)]


class Manifest(_Part):
    """A guest's manifest. Unknown fields are kept (``model_extra``)."""

    id: Annotated[str, BeforeValidator(_checked_id)]
    name: str
    version: str
    description: str
    capabilities: Strings
    protocol_version: int = 1
    ui: Objects = ()
    commands: Strings = ()
    cli: Objects = ()
    requested_permissions: Annotated[RequestedPermissions | None, BeforeValidator(_object_or_none)] = None
    conversions: Strings = ()
    min_app_version: str | None = None
    server_functions: Annotated[tuple[ServerFunction, ...], Field(strict=False)] = ()
    stateless: Annotated[bool, BeforeValidator(_only_true)] = False
    """It keeps nothing in memory from one call to the next, so calls may be spread over several workers."""

    @property
    def unknown_capabilities(self) -> tuple[str, ...]:
        """Declared capabilities that this host does not know, sorted; worth a warning."""
        return tuple(sorted(set(self.capabilities) - KNOWN_CAPABILITIES))

    def to_json_object(self) -> dict[str, Any]:
        """What the guest said, with unknown fields, without the defaults of fields that it left out."""
        return self.model_dump(mode="json", exclude_unset=True)


def parse_manifest(data: bytes, plugin: str) -> Manifest:
    """The manifest in a guest's answer, which may be anything.

    Args:
        data: the answer of the ``manifest`` export, or the cache.
        plugin: what to call the plugin in errors while its id is not known, usually its folder's name.

    Raises:
        LoadError: not a usable manifest; the text says where and why.
    """
    try:
        document = parse_object(data, MAX_MANIFEST_BYTES)
    except ValueError as error:
        raise LoadError(f"the manifest of plugin {plugin!r} {error}", plugin_id=plugin) from error
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        problems = [_describe(problem["type"], problem) for problem in error.errors(include_url=False)]
        shown = "; ".join(problems[:_MAX_PROBLEMS])
        if len(problems) > _MAX_PROBLEMS:
            shown += f"; and {len(problems) - _MAX_PROBLEMS} more"
        raise LoadError(f"the manifest of plugin {plugin!r} cannot be used: {shown}", plugin_id=plugin) from error


def check_compatible(manifest: Manifest, app_version: str) -> None:
    """Refuse a guest that needs another protocol or a newer application than ``app_version``.

    Raises:
        ProtocolMismatch: its protocol version is outside 1..=1.
        AppVersionTooOld: ``min_app_version`` is newer, or one of the two is not ``major.minor[.patch]``.
    """
    if not MINIMUM_PROTOCOL_VERSION <= manifest.protocol_version <= MAXIMUM_PROTOCOL_VERSION:
        raise ProtocolMismatch(
            manifest.id, manifest.protocol_version, MINIMUM_PROTOCOL_VERSION, MAXIMUM_PROTOCOL_VERSION
        )
    if manifest.min_app_version is None:
        return
    required, running = parse_version(manifest.min_app_version), parse_version(app_version)
    if required is None or running is None or required > running:
        raise AppVersionTooOld(manifest.id, manifest.min_app_version[:100], app_version)


def read_cached(manifest_path: Path, wasm_path: Path) -> Manifest | None:
    """The cached manifest, or None when it is older than the module, missing or of no use. Never raises."""
    try:
        if os.stat(manifest_path).st_mtime_ns < os.stat(wasm_path).st_mtime_ns:
            return None
        return parse_manifest(read_bounded(manifest_path, MAX_MANIFEST_BYTES), manifest_path.parent.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LoadError) as error:
        _log.debug("manifest.cache_ignored", path=manifest_path, reason=error)
        return None


def write_cached(path: Path, manifest: Manifest) -> None:
    """Write the cache, atomically. Never raises: without it, the next start makes one guest call more."""
    try:
        write_atomically(path, dump_object(manifest.to_json_object(), MAX_MANIFEST_BYTES), new_mode=0o644)
    except (OSError, ValueError) as error:
        _log.debug("manifest.cache_not_written", plugin=manifest.id, path=path, reason=reason(error))


def _describe(kind: str, problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])[:100]
    match kind:
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where} {problem['ctx']['error']}"
        case "string_type":
            return f"{where} must be a string"
        case "tuple_type":
            return f"{where} must be a list"
        case "dict_type" | "model_type":
            return f"{where} must be an object"
        case "int_type":
            return f"{where} must be a whole number"
        case _:
            return f"{where}: {problem['msg']}"
