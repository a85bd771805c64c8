"""A zygote that boots while the supervisor that it is for is still being imported, which takes longer."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from isoplug.shared.errors import SetupError
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.runtime_folder import make_runtime_folder
from isoplug.supervisor.zygote_process import ZygoteProcess, cannot_start

__all__ = ["HeadStart"]


class HeadStart:
    """For one supervisor, which takes it over and is closed first; what none has taken ends with the block.

        with HeadStart() as head_start:
            from isoplug.supervisor import Supervisor
            with Supervisor("plugins", head_start=head_start) as supervisor: ...

    Raises SetupError.
    """

    def __init__(self) -> None:
        check_platform()
        with ExitStack() as cleanup:
            self.runtime_folder = cleanup.enter_context(make_runtime_folder())
            self._untaken = cleanup.enter_context(ExitStack())
            try:
                self._lifeline = Lifeline()
                self._untaken.callback(self._lifeline.close)
                self._untaken.callback(self._lifeline.cut)
                self._process = ZygoteProcess(self.runtime_folder, self._lifeline)
                self._untaken.callback(self._process.end)
            except OSError as error:
                raise cannot_start(error) from error
            self._is_taken = False
            self._cleanup = cleanup.pop_all()

    def take(self) -> tuple[Lifeline, ZygoteProcess]:
        """The caller closes them now; the runtime folder stays with this. Raises SetupError the second time."""
        if self._is_taken:
            raise SetupError("head_start: a supervisor has taken it; make one for each")
        self._is_taken = True
        self._untaken.pop_all()
        return self._lifeline, self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()
