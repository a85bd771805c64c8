"""What is run, what comes of it, and the bounds of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.shared.limits import clip
from isoplug.supervisor.workspace import WorkspacePath
from isoplug.supervisor.workspace.filesystem import MAX_DEPTH

__all__ = ["MAX_ENTRIES", "Outcome", "Program", "WasiLimits", "scratch_path"]

MAX_ENTRIES: Final = 10_000
"""Files and folders in the folder of one run. In a request the folders are counted with every file they hold."""

# Of a module; a component has another version behind the same magic number.
_CORE_MODULE: Final = b"\0asm\x01\0\0\0"
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"


@dataclass(frozen=True, slots=True)
class WasiLimits:
    """Of one run, but for ``runs``: how many there may be at once.

    ``output_bytes`` bounds standard output and standard error, each; ``answer_bytes`` bounds the files that are handed
    back, together.
    """

    memory_bytes: int
    output_bytes: int
    scratch_bytes: int
    answer_bytes: int
    runs: int


@dataclass(frozen=True, slots=True)
class Program:
    """One run. ``outputs`` are the files to hand back, by the name that the plugin gave them.

    Raises:
        ServiceError: ``module`` is no WebAssembly module, or an argument holds a NUL.
        ResourceLimitExceeded: more than ``MAX_ENTRIES`` files, in or out.
    """

    module: bytes
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""
    files: Mapping[WorkspacePath, bytes] = field(default_factory=dict)
    outputs: Mapping[str, WorkspacePath] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.module.startswith(_COMPONENT):
            raise ServiceError("the module is a component; build it as a core module (target wasm32-wasip1)")
        if not self.module.startswith(_CORE_MODULE):
            raise ServiceError("what is stored there is no WebAssembly module")
        if any("\0" in argument for argument in self.arguments):
            raise ServiceError("an argument contains a NUL character")
        for paths in (self.files, self.outputs.values()):
            entries = sum(len(path.parts) for path in paths)
            if entries > MAX_ENTRIES:
                raise ResourceLimitExceeded(
                    None, "the number of files and folders for one run", entries, MAX_ENTRIES, "pack them into one file"
                )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program that ran to its end. ``files`` has those of its outputs that are regular files of its own."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    files: Mapping[str, bytes]


def scratch_path(text: str) -> WorkspacePath:
    """A plugin's name for a file of a run: relative to the run's folder, or absolute with that folder as root.

    Raises:
        ServiceError: it leaves the folder, is the folder itself, is nested too deep, or is no file name at all.
    """
    path = WorkspacePath.parse(text.lstrip("/\\"))
    if path.is_root:
        raise ServiceError(f"{clip(repr(text), 100)} names no file")
    if len(path.parts) > MAX_DEPTH:
        raise ServiceError(f"the path {clip(repr(text), 100)} is deeper than {MAX_DEPTH} folders")
    return path
