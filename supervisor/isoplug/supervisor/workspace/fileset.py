"""Which files belong to the workspace: everything that the root index reaches.

A Diaryx workspace is a tree of notes held together by front matter: `contents` lists a note's children,
`attachments` its files, and an attachment may be a note about a file, which it names in `attachment`. What no
note mentions does not belong, even when it lies in the directory. Called by `host_workspace_file_set`;
permissions are the caller's concern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.workspace import frontmatter
from isoplug.supervisor.workspace.path import WorkspacePath, components, link_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isoplug.supervisor.workspace.filesystem import FileSystem
    from isoplug.supervisor.workspace.frontmatter import Value

__all__ = ["resolve_link", "workspace_file_set"]

MAX_FILES: Final = 100_000
MAX_LINKS: Final = 4 * MAX_FILES  # a guest may write notes that link to each other in every combination


def workspace_file_set(
    filesystem: FileSystem, root_index: WorkspacePath, check_deadline: Callable[[], None] = lambda: None
) -> list[str]:
    """Sorted workspace-relative paths of the files that ``root_index`` reaches, itself included.

    Only files that exist. Links to directories, to missing files and out of the workspace are ignored, and a
    note whose front matter cannot be read has no links. Cycles are fine. ``check_deadline`` is called for each
    link, and what it raises ends the walk.

    Raises:
        ServiceError: more than 100,000 files, or 400,000 links; a shortened list would look like deletions to
            a guest that syncs.
    """
    found: set[WorkspacePath] = set()
    visited: set[WorkspacePath] = set()
    opened: set[WorkspacePath] = set()  # for what they are attached to
    waiting = [root_index]
    links_followed = 0

    def follow(note: WorkspacePath, value: Value) -> Iterator[WorkspacePath]:
        nonlocal links_followed
        for link in _links(value):
            check_deadline()
            links_followed += 1
            if links_followed > MAX_LINKS:
                raise ServiceError(f"the workspace has more than {MAX_LINKS} links")
            if (target := resolve_link(filesystem, note, link)) is not None:
                yield target

    while waiting:
        check_deadline()
        note = waiting.pop()
        if note in visited or not _is_file(filesystem, note):
            continue
        visited.add(note)
        found.add(note)
        values = _values(filesystem, note)
        for attached in dict.fromkeys(follow(note, values.get("attachments", ""))):
            found.add(attached)
            if attached not in opened:  # many notes may attach the same note about a file
                opened.add(attached)
                found.update(follow(attached, _values(filesystem, attached).get("attachment", "")))
        waiting.extend(follow(note, values.get("contents", "")))
        if len(found) > MAX_FILES:
            raise ServiceError(f"the workspace reaches more than {MAX_FILES} files")
    return sorted(path.text for path in found)


def resolve_link(filesystem: FileSystem, note: WorkspacePath, link: str) -> WorkspacePath | None:
    """The existing file that ``link`` in ``note`` means: ``/a.md`` from the workspace, ``a.md`` from the
    note's directory.

    Percent-encoding is undone only when no file has the name as it stands. None when there is no such file.
    """
    target = link_target(link)
    if target is None:
        return None
    for spelling in dict.fromkeys((target, unquote(target, errors="surrogateescape"))):
        path = _resolve(note, spelling)
        if path is not None and _is_file(filesystem, path):
            return path
    return None


def _resolve(note: WorkspacePath, target: str) -> WorkspacePath | None:
    """Links may say ``..``, unlike guests' paths, as long as they stay inside."""
    parts = [] if target.startswith(("/", "\\")) else list(note.parts[:-1])
    for part in components(target):
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            return None
    try:
        return WorkspacePath(tuple(parts))
    except ServiceError:
        return None


def _is_file(filesystem: FileSystem, path: WorkspacePath) -> bool:
    try:
        status = filesystem.stat(path)
    except ServiceError:
        return False
    return status is not None and not status.is_directory


def _values(filesystem: FileSystem, note: WorkspacePath) -> dict[str, Value]:
    if not note.is_markdown:
        return {}
    try:
        with filesystem.open(note) as stream:
            return frontmatter.read(stream)
    except ServiceError:
        return {}


def _links(value: Value) -> list[str]:
    links = value if isinstance(value, list) else [value]
    return [link for link in links if isinstance(link, str) and not frontmatter.is_empty(link)]
