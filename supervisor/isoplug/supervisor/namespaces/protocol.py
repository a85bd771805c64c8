"""What the supervisor asks of a provider of namespaces; ``EmbeddedNamespaces`` and ``HttpNamespaces`` are ours.

A namespace holds objects by key. An object may have an audience; who counts as one is up to its gates (none: everyone).
Objects without an audience are their owner's alone. Times are seconds since the epoch, as Diaryx servers count them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from isoplug.supervisor.caller import Caller

__all__ = [
    "Audience",
    "Batch",
    "Gate",
    "Namespace",
    "NamespaceProvider",
    "NewObject",
    "ObjectContent",
    "ObjectInfo",
    "SentEmail",
]

#: What a visitor has to pass, such as ``{"kind": "link"}`` or ``{"kind": "password", "password": "..."}``.
Gate: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Namespace:
    """``metadata`` is anything JSON."""

    id: str
    owner_user_id: str
    created_at: int
    metadata: Any = None


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object to store. What follows ``audience`` is for a server that makes web pages of objects: the permanent name
    of the source file, its key, the key of the page made of it, and whether it is the start page."""

    key: str
    content: bytes = field(repr=False)
    mime_type: str
    audience: str | None = None
    file_ark: str | None = None
    source_key: str | None = None
    object_key: str | None = None
    is_index: bool = False


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells. ``content_hash`` is SHA-256 in hexadecimal digits, ``r2_key`` where a server keeps it."""

    key: str
    namespace_id: str | None = None
    r2_key: str | None = None
    audience: str | None = None
    mime_type: str | None = None
    size_bytes: int | None = None
    updated_at: int | None = None
    content_hash: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectContent:
    content: bytes = field(repr=False)
    mime_type: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Objects by key, and for keys that could not be read the reason. Every key asked for is in one of the two."""

    objects: Mapping[str, ObjectContent]
    errors: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(len(found.content) for found in self.objects.values())


@dataclass(frozen=True, slots=True)
class Audience:
    """``access`` is what older guests say instead of gates: ``public``, ``token`` or ``private``; ``gates`` are then
    what comes closest."""

    name: str
    gates: tuple[Gate, ...] = field(repr=False)  # they may hold a password
    access: str | None = None


@dataclass(frozen=True, slots=True)
class SentEmail:
    """What a server says after it sent a draft to an audience: to whom or to how many, and the key of the receipt."""

    recipients: Any
    send_receipt_key: str | None = None


class NamespaceProvider(Protocol):
    """Namespaces and what is in them. Called from several threads at once, also by one caller.

    Names and keys are a guest's; they have been checked (``names``). A provider that waits for something outside keeps
    the caller's deadline and gives up when ``caller.watch()`` says so. All methods raise ServiceError when they cannot
    do it, also for a namespace that does not exist, and ResourceLimitExceeded where a bound is met.
    """

    def host(self, plugin_id: str) -> str | None:
        """The server that this plugin's calls go to, for which it needs ``http_requests``; None for namespaces on this
        machine, private to each plugin, for which ``plugin_storage`` counts."""
        ...

    def create(self, caller: Caller, metadata: Any) -> Namespace:
        """A new namespace with an id that nobody has. ``metadata`` is anything JSON, or None."""
        ...

    def list(self, caller: Caller) -> Sequence[Namespace]: ...

    def put_object(self, caller: Caller, ns_id: str, new: NewObject) -> None:
        """Store or replace an object. Once this returns it survives a crash."""
        ...

    def get_object(self, caller: Caller, ns_id: str, key: str, max_bytes: int) -> ObjectContent:
        """Raises ResourceLimitExceeded for an object larger than ``max_bytes``."""
        ...

    def get_objects(self, caller: Caller, ns_id: str, keys: Sequence[str], max_bytes: int) -> Batch:
        """Several objects; one that is missing, or would make them exceed ``max_bytes`` together, is among the
        errors."""
        ...

    def delete_object(self, caller: Caller, ns_id: str, key: str) -> None:
        """An object that does not exist is deleted already."""
        ...

    def list_objects(
        self, caller: Caller, ns_id: str, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> Sequence[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, by key; a provider may list fewer than ``limit``."""
        ...

    def set_audience(self, caller: Caller, ns_id: str, audience: Audience) -> None:
        """Make the audience, or replace its gates."""
        ...

    def list_audiences(self, caller: Caller, ns_id: str) -> Sequence[str]: ...

    def delete_audience(self, caller: Caller, ns_id: str, name: str) -> None:
        """Its objects stay, without an audience. One that does not exist is deleted already."""
        ...

    def send_email(self, caller: Caller, ns_id: str, audience: str, subject: str, reply_to: str | None) -> SentEmail:
        """Send the audience the draft that lies in the object ``_email_draft/{audience}.html``."""
        ...

    def build(self, caller: Caller, ns_id: str, base_url: str | None) -> None:
        """Make web pages of the namespace's objects."""
        ...
