"""Namespaces: objects by key, which a person's devices share and which may be shown to audiences."""

from __future__ import annotations

from isoplug.supervisor.namespaces.batches import MAX_CONCURRENCY, read_batches
from isoplug.supervisor.namespaces.embedded import EmbeddedNamespaces
from isoplug.supervisor.namespaces.http import HttpNamespaces, Server
from isoplug.supervisor.namespaces.protocol import (
    Audience,
    Batch,
    Gate,
    Namespace,
    NamespaceProvider,
    NewObject,
    ObjectContent,
    ObjectInfo,
    SentEmail,
)

__all__ = [
    "MAX_CONCURRENCY",
    "Audience",
    "Batch",
    "EmbeddedNamespaces",
    "Gate",
    "HttpNamespaces",
    "Namespace",
    "NamespaceProvider",
    "NewObject",
    "ObjectContent",
    "ObjectInfo",
    "SentEmail",
    "Server",
    "read_batches",
]
