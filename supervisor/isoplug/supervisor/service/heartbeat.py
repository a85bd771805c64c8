"""Signs of life: one line about the plugins, and the watchdog's message as long as the supervisor answers.

That the loop turns says little, because the supervisor works in threads: a message is sent only after the supervisor
has told its status, for which it takes the lock that every call needs.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from isoplug.supervisor.aio import AsyncSupervisor
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.service.notify import Notifier

__all__ = ["Heartbeat"]

_log = get_logger(__name__)

#: Between two, where no watchdog says how long.
_PERIOD_SECONDS = 10.0


class Heartbeat:
    def __init__(self, notifier: Notifier, supervisor: AsyncSupervisor) -> None:
        self._notifier, self._supervisor = notifier, supervisor
        watchdog = notifier.watchdog_seconds
        self._period_seconds = _PERIOD_SECONDS if watchdog is None else watchdog / 2

    async def beat(self) -> None:
        """For ever; returns at once where nobody listens."""
        while self._notifier.is_heard:
            asking = asyncio.create_task(self.status_line())
            done, _ = await asyncio.wait([asking], timeout=self._period_seconds)
            if not done:
                _log.error("service.supervisor_does_not_answer", seconds=self._period_seconds)
            self._notifier.alive(await asking)  # waits on: one question is enough for a supervisor that hangs
            await asyncio.sleep(self._period_seconds)

    async def status_line(self) -> str:
        """``3 plugins: 2 ready, 1 quarantined; 1 not loaded``."""
        statuses = await self._supervisor.status()
        states = Counter(status.state for status in statuses.values())
        line = f"{len(statuses)} plugin{'' if len(statuses) == 1 else 's'}"
        if states:
            line += ": " + ", ".join(f"{count} {state}" for state, count in states.most_common())
        failed = len(self._supervisor.load_errors)
        return f"{line}; {failed} not loaded" if failed else line
