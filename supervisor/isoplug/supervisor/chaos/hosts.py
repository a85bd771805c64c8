"""What is put through faults: a supervisor, and what a program does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from isoplug.shared.errors import CallTimeout, PluginError
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.chaos.load import Operation
from isoplug.supervisor.config import Config, Restart
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["Host", "HostFactory", "PlainHost", "patient_config"]

#: Of one operation. A call that fails so often without having done anything will not succeed.
_MAX_ATTEMPTS = 8


class Host(Protocol):
    """A program with a supervisor, such as one that a test writes down to put its own retries through faults. Several
    threads perform at the same time, each in the thread that calls."""

    supervisor: Supervisor

    def perform(self, operation: Operation, timeout: float) -> Any:
        """The operation's answer, within so many seconds; for an event, when it has been handled. Raises
        PluginError."""
        ...

    def close(self) -> None: ...


#: Makes a host from the plugins folder, a copy of the workspace (None: there is none), a fresh folder for the state,
#: and the interceptors that its supervisor must have.
HostFactory: TypeAlias = Callable[[Path, "Path | None", Path, Sequence[Interceptor]], Host]


def patient_config() -> Config:
    """A supervisor's that forgets a worker's death after a millisecond: under fault injection plugins die by the
    thousand, and none of it is their fault."""
    return Config(restart=Restart(max_restarts=1000, period=0.001, backoff_initial=0.001, backoff_jitter=0.0))


class PlainHost:
    """The default: it makes a call again while the error says ``retryable``, and waits until events are handled."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    @classmethod
    def make(cls, plugins: Path, workspace: Path | None, state: Path, interceptors: Sequence[Interceptor]) -> PlainHost:
        return cls(Supervisor(plugins, workspace, state_dir=state, interceptors=interceptors, config=patient_config()))

    def perform(self, operation: Operation, timeout: float) -> Any:
        """See ``Host``. The answer of an event is how many plugins took it."""
        deadline = self.supervisor.deadline(timeout)
        if operation.kind == "event":
            return self._emit(operation, deadline)
        for _ in range(_MAX_ATTEMPTS - 1):
            try:
                return self._command(operation, deadline)
            except PluginError as error:
                if not error.retryable or deadline.has_passed:
                    raise
        return self._command(operation, deadline)

    def close(self) -> None:
        self.supervisor.close()

    def _command(self, operation: Operation, deadline: Deadline) -> Any:
        return self.supervisor.command(operation.plugin_id, operation.name, operation.params, timeout=deadline)

    def _emit(self, operation: Operation, deadline: Deadline) -> int:
        taken = self.supervisor.emit(operation.name, operation.params)
        if not self.supervisor.flush_events(max(deadline.remaining_seconds(), 0.001)):
            raise CallTimeout("", operation.text, deadline.timeout_seconds)
        return taken
