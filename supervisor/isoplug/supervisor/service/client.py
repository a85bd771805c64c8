"""The other end of the control socket, for the command line: requests that wait, and errors as they were raised."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoplug.shared.errors import InvalidArgument, SetupError
from isoplug.shared.record import Outcome
from isoplug.supervisor.config import Config
from isoplug.supervisor.files import reason
from isoplug.supervisor.service.place import NotRunning, connect
from isoplug.supervisor.service.protocol import (
    MAX_LINE_BYTES,
    Call,
    Drain,
    Ping,
    Reload,
    Request,
    dump_line,
    error_from,
)
from isoplug.supervisor.state import place_of_state

__all__ = ["Client", "folder_of", "open_client"]

#: For what a service that is well answers at once, and on top of what a request itself may take.
_PATIENCE_SECONDS = 10.0
_CHUNK_BYTES = 1 << 16


def folder_of(config: Config) -> Path:
    """The state folder of the service that runs with ``config``. Raises SetupError."""
    try:
        return place_of_state(config.workspace, config.plugins_dir, config.state_dir)
    except (OSError, ValueError, RuntimeError) as error:
        raise SetupError(
            f"cannot tell which service is meant: {reason(error)}; name its state folder with --state"
        ) from error


@contextmanager
def open_client(folder: Path) -> Iterator[Client]:
    """Leaving it in the middle of a call cancels the call. Raises NotRunning, PermissionDenied."""
    connection = connect(folder, _PATIENCE_SECONDS)
    with connection:
        yield Client(connection, folder)


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self._read = bytearray()
        facts = self.ask(Ping())
        self._call_seconds = float(facts["call_timeout_seconds"])
        self._shutdown_seconds = float(facts["shutdown_timeout_seconds"])

    def ask(self, request: Request) -> dict[str, Any]:
        """The answer. Raises what the service raised, and NotRunning when it says nothing in time; a call may have been
        made then, as its outcome says."""
        try:
            line = dump_line(request.model_dump())
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"params cannot be sent as JSON: {error}") from error
        try:
            answer = self._exchange(line, self._seconds_for(request))
        except NotRunning as error:
            if not isinstance(request, Call):
                raise
            unknown = NotRunning(f"{error.message}; the call may have been made by then: look before you repeat it")
            unknown.outcome = Outcome.EFFECTS
            raise unknown from error
        if "error" in answer:
            raise error_from(answer["error"])
        result: dict[str, Any] = answer["ok"]
        return result

    def _exchange(self, line: bytes, timeout_seconds: float | None) -> dict[str, Any]:
        """Raises NotRunning."""
        try:
            self._connection.settimeout(timeout_seconds)
            self._connection.sendall(line)
            answer: dict[str, Any] = json.loads(self._next_line())
        except TimeoutError as error:
            raise NotRunning(
                f"the service for state folder {str(self._folder)!r} does not answer; see its log, or restart it"
            ) from error
        except (OSError, ValueError) as error:
            raise NotRunning(
                f"the service for state folder {str(self._folder)!r} has ended ({reason(error)}); see its log"
            ) from error
        return answer

    def _seconds_for(self, request: Request) -> float | None:
        match request:
            case Call(timeout=timeout):  # retries have the same deadline
                return (self._call_seconds if timeout is None else max(timeout, 0.0)) + _PATIENCE_SECONDS
            case Drain():  # calls in progress, and then the plugins' shutdown
                return 2 * self._shutdown_seconds + _PATIENCE_SECONDS
            case Reload():  # starts workers, one after the other: as long as it takes
                return None
            case _:
                return _PATIENCE_SECONDS

    def _next_line(self) -> bytes:
        while (end := self._read.find(b"\n")) < 0:
            if len(self._read) > MAX_LINE_BYTES:
                raise ValueError("it sent too much")
            chunk = self._connection.recv(_CHUNK_BYTES)
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            self._read += chunk
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return line
