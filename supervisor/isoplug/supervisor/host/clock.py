"""The time. Asked of the supervisor, because a locked-down worker has neither the host's time zone nor its files."""

from __future__ import annotations

from datetime import datetime

from isoplug.supervisor import wall_clock
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Nothing, host_function

__all__: list[str] = []


@host_function("host_get_timestamp", Nothing, refuse=None)
def _timestamp(_context: HostContext, _: Nothing) -> str:
    return str(int(wall_clock.now() * 1000))


@host_function("host_get_now", Nothing, refuse=None)
def _now(_context: HostContext, _: Nothing) -> str:
    return datetime.fromtimestamp(wall_clock.now()).astimezone().isoformat(timespec="seconds")
