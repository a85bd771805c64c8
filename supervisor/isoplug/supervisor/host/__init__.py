"""The 41 host functions, one file a family. Importing this package fills the import table."""

from __future__ import annotations

from isoplug.supervisor.host import clock, commands, events, files, runtime, storage, unavailable
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.defaults import LogSink, NoOfferedFiles, NoStorage, WorkspaceContext, for_nobody
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
    "NoOfferedFiles",
    "NoStorage",
    "RuntimeContext",
    "Services",
    "WorkspaceContext",
    "clock",
    "commands",
    "events",
    "files",
    "for_nobody",
    "runtime",
    "storage",
    "unavailable",
]
