"""What is told of a call that has cost its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from isoplug.shared.errors import PluginError
from isoplug.shared.record import CallRecord
from isoplug.supervisor.pool import Worker

__all__ = ["Crash", "OnCrash"]


class Crash(NamedTuple):
    """``error`` is a WorkerCrashed, GuestTrap or ResourceLimitExceeded; ``doing`` says what the call was. Of one at the
    very start of a worker, before its first call, ``export`` is empty and ``worker`` None."""

    plugin_id: str
    export: str
    doing: str
    error: PluginError
    record: CallRecord
    worker: Worker | None


#: Called in the thread of the call, before its caller hears of the error. Returns the id of the report that it has
#: kept, if it has. Must not raise.
OnCrash: TypeAlias = Callable[[Crash], str | None]
