"""The 41 host functions, one file a family. Importing this package fills the import table."""

from __future__ import annotations

from isoplug.supervisor.host import (
    clock,
    commands,
    events,
    files,
    http,
    namespaces,
    proxy,
    runtime,
    secrets,
    storage,
    wasi,
    websockets,
)
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.defaults import (
    LogSink,
    NoHttp,
    NoOfferedFiles,
    NoSecrets,
    NoStorage,
    WorkspaceContext,
    for_nobody,
    no_sockets,
)
from isoplug.supervisor.host.note import Note
from isoplug.supervisor.host.registry import HOST_FUNCTIONS, GuestAbort, HostFunction
from isoplug.supervisor.host.services import EventSink, FileSource, RuntimeContext, Services

__all__ = [
    "HOST_FUNCTIONS",
    "EventSink",
    "FileSource",
    "GuestAbort",
    "HostContext",
    "HostFunction",
    "LogSink",
    "NoHttp",
    "NoOfferedFiles",
    "NoSecrets",
    "NoStorage",
    "Note",
    "RuntimeContext",
    "Services",
    "WorkspaceContext",
    "clock",
    "commands",
    "events",
    "files",
    "for_nobody",
    "http",
    "namespaces",
    "no_sockets",
    "proxy",
    "runtime",
    "secrets",
    "storage",
    "wasi",
    "websockets",
]
