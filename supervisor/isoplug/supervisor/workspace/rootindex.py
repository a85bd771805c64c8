"""Which file grants permissions, and the guard that keeps guests from granting themselves any.

The root index is a Markdown file directly in the workspace whose front matter has `contents` and no
`part_of`. It is determined once, at start, or named by the host; its `plugins` mapping says what plugins may
do. Guests may edit it like any other file, so every write and delete passes `GuardedFilesystem`, which
refuses those that would

* change the parsed value of `plugins` there (order of keys and quoting do not matter),
* make its front matter unreadable, or stop it being a root index,
* make a second root index, which would be found, or make the choice ambiguous, at the next start.

The same holds for every other candidate in the workspace directory: a host may name one of them next time.

The rules (`Header`, `reason_against_write`) are pure; the class only fetches what they need, under a lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.workspace import frontmatter
from isoplug.supervisor.workspace.filesystem import DirectoryEntry, FileStat, FileSystem, WorkspaceFilesystem
from isoplug.supervisor.workspace.frontmatter import FrontmatterError, Value
from isoplug.supervisor.workspace.path import WorkspacePath

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GuardRefusal",
    "GuardedFilesystem",
    "Header",
    "RootIndex",
    "find_candidates",
    "find_root_index",
    "reason_against_write",
]

_NAMED_AT_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class RootIndex:
    """The outcome of the search: ``path``, or None and the ``reason`` in words (for denial messages and
    logs).

    ``candidates`` are the files that qualified; they are guarded even when none could be chosen.
    """

    path: WorkspacePath | None
    candidates: tuple[WorkspacePath, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's front matter says about permissions. ``problem`` says why it cannot be read; then the
    rest is void."""

    plugins: Value = ""
    is_root_index: bool = False
    problem: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Header:
        is_root_index = "contents" in values and frontmatter.is_empty(values.get("part_of", ""))
        plugins = values.get("plugins", "")
        return cls("" if frontmatter.is_empty(plugins) else plugins, is_root_index)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Of a file's content. A note that merely begins with a thematic break has no front matter, for us
        and for the reference."""
        try:
            return cls.of(frontmatter.parse(data))
        except FrontmatterError as error:
            return cls() if error.is_unterminated else cls(problem=str(error))


def reason_against_write(old: Header | None, new: Header | None, *, is_protected: bool) -> str:
    """Why a guest must not replace ``old`` by ``new`` (None: no file) directly in the workspace; empty when
    it may.

    ``is_protected`` says that this is the root index or a candidate; any other file only must not become one.
    """
    if old is not None and old.is_root_index:
        is_protected = True
    if new is not None and new.is_root_index and not is_protected:
        return "it would make a second root index (front matter with 'contents' and no 'part_of')"
    if new is not None and new.problem and not is_protected:
        return f"its front matter could not be read, and it might be a second root index: {new.problem}"
    if not is_protected:
        return ""
    if new is None:
        return "it is the root index, which says what plugins may do"
    if old is not None and old.problem:
        return f"it is the root index and cannot be read now ({old.problem}); a person has to repair it"
    if new.problem:
        return f"it is the root index, which would become unreadable: {new.problem}"
    if (old.plugins if old is not None else "") != new.plugins:
        return "it would change 'plugins' in the root index, which says what plugins may do"
    if old is not None and old.is_root_index and not new.is_root_index:
        return "it would stop being the root index (front matter with 'contents' and no 'part_of')"
    return ""


# --- finding it ---------------------------------------------------------------------------------------------


def find_candidates(root: Path | FileSystem) -> tuple[WorkspacePath, ...]:
    """Markdown files directly in the workspace that qualify as root index, sorted by name."""
    if isinstance(root, Path):
        with WorkspaceFilesystem(root) as filesystem:
            return _survey(filesystem)[0]
    return _survey(root)[0]


def find_root_index(root: Path | FileSystem, named: WorkspacePath | None = None) -> RootIndex:
    """Determine the root index: the file that the host ``named``, or the only candidate.

    Raises:
        SetupError: the named file does not exist in the workspace, or cannot be opened there.
        ServiceError: the workspace directory cannot be listed.
    """
    if isinstance(root, Path):
        with WorkspaceFilesystem(root) as filesystem:
            return find_root_index(filesystem, named)
    candidates, unreadable = _survey(root)
    if named is not None:
        _require_openable(root, named)
        return RootIndex(named, candidates)
    if len(candidates) == 1:
        return RootIndex(candidates[0], candidates)
    if candidates:
        names = _listed([str(path) for path in candidates])
        reason = f"several files could be the root index ({names}); pass root_index= to choose one"
        return RootIndex(None, candidates, reason)
    reason = (
        "the workspace has no root index (a Markdown file directly in it whose front matter has 'contents' "
        "and no 'part_of'); make one, or pass root_index="
    )
    if unreadable:
        reason += f"; could not be read: {_listed(unreadable)}"
    return RootIndex(None, (), reason)


def _survey(filesystem: FileSystem) -> tuple[tuple[WorkspacePath, ...], list[str]]:
    candidates, unreadable = [], []
    for entry in filesystem.children(WorkspacePath()):
        path = WorkspacePath((entry.name,))
        if entry.is_directory or not path.is_markdown:
            continue
        try:
            with filesystem.open(path) as stream:
                values = frontmatter.read(stream)
        except ServiceError as error:
            unreadable.append(f"{path} ({error})")
            continue
        if Header.of(values).is_root_index:
            candidates.append(path)
    return tuple(candidates), unreadable


def _require_openable(filesystem: FileSystem, path: WorkspacePath) -> None:
    # Through the confined door: a root index behind a symbolic link could be written under its other name.
    try:
        filesystem.open(path).close()
    except ServiceError as error:
        raise SetupError(f"root_index={str(path)!r} cannot be used: {error}") from error


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


# --- guarding it --------------------------------------------------------------------------------------------


class GuardRefusal(ServiceError):
    """This would touch what grants permissions: a rule that no other rule lifts."""


@dataclass(frozen=True, slots=True)
class GuardedFilesystem:
    """A `FileSystem` for guests: the given one, minus the writes that would touch what grants permissions.

    The root index is recognised by name and by identity, so that another spelling or a hard link does not get
    round the guard. The lock makes check and write one step among guests; a person's editor is not bound by
    it.
    """

    filesystem: FileSystem
    root_index: RootIndex
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def close_to_writes(self, path: Path) -> None:
        """Keep guests from changing ``path``, when it lies in the workspace: a module, whose rules would become those
        of whoever wrote it, or what belongs to it. A host's own filesystem has to see to that itself."""
        if isinstance(self.filesystem, WorkspaceFilesystem):
            self.filesystem.close_to_writes(path)

    def open(self, path: WorkspacePath) -> BinaryIO:
        return self.filesystem.open(path)

    def stat(self, path: WorkspacePath) -> FileStat | None:
        return self.filesystem.stat(path)

    def children(self, path: WorkspacePath) -> list[DirectoryEntry]:
        return self.filesystem.children(path)

    def write(self, path: WorkspacePath, data: bytes, *, replace: bool = True) -> None:
        """As the filesystem's, and GuardRefusal."""
        with self._lock:
            concerns, is_protected = self._concerns(path)
            if concerns:
                _refuse(f"cannot write {str(path)!r}", self._reason_against_write(path, data, is_protected))
                self.filesystem.write(path, data, replace=replace)
                return
        self.filesystem.write(path, data, replace=replace)

    def delete(self, path: WorkspacePath) -> None:
        """As the filesystem's, and GuardRefusal."""
        with self._lock:
            concerns, is_protected = self._concerns(path)
            if concerns:
                reason = reason_against_write(self._header(path), None, is_protected=is_protected)
                _refuse(f"cannot delete {str(path)!r}", reason)
                self.filesystem.delete(path)
                return
        self.filesystem.delete(path)

    def _reason_against_write(self, path: WorkspacePath, data: bytes, is_protected: bool) -> str:
        reason = reason_against_write(self._header(path), Header.parse(data), is_protected=is_protected)
        if not reason and is_protected and not _is_utf8(data):
            reason = "it is the root index, which would no longer be UTF-8"
        return reason

    def _concerns(self, path: WorkspacePath) -> tuple[bool, bool]:
        """Whether the guard looks at ``path`` at all, and whether it is the root index or a candidate."""
        is_protected = self._is_protected(path)
        # Some file systems drop dots and blanks at the end of a name: `new.md.` would become `new.md`.
        looks_like_markdown = path.name.rstrip(". ").lower().endswith(".md")
        return is_protected or (len(path.parts) == 1 and looks_like_markdown), is_protected

    def _is_protected(self, path: WorkspacePath) -> bool:
        guarded = {*self.root_index.candidates, *([self.root_index.path] if self.root_index.path else [])}
        if path in guarded:
            return True
        status = self.filesystem.stat(path)
        if status is None or status.identity is None:
            return False
        return any(status.identity == self._identity(other) for other in guarded)

    def _identity(self, path: WorkspacePath) -> tuple[int, int] | None:
        status = self.filesystem.stat(path)
        return None if status is None else status.identity

    def _header(self, path: WorkspacePath) -> Header | None:
        status = self.filesystem.stat(path)
        if status is None or status.is_directory:
            return None
        try:
            with self.filesystem.open(path) as stream:
                return Header.of(frontmatter.read(stream))
        except ServiceError as error:
            return Header(problem=str(error))


def _refuse(what: str, reason: str) -> None:
    if reason:
        raise GuardRefusal(f"{what}: {reason}")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
