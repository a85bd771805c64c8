"""Workspace files: every path is parsed, then permitted, then handed to the confined filesystem."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isoplug.shared.errors import PermissionDenied, ResourceLimitExceeded, ServiceError
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import (
    Nothing,
    Request,
    as_data,
    constant,
    envelope,
    error_string,
    from_base64,
    host_function,
    to_json,
)
from isoplug.supervisor.permissions import Permission
from isoplug.supervisor.workspace import GuardRefusal, WorkspacePath, workspace_file_set

__all__: list[str] = []

_CHUNK_BYTES = 1 << 20
#: What is decoded at once.
_PIECE_BYTES = 1 << 16
#: Most entries of one listing: at a hundred bytes a path this is 10 MB of JSON.
_MAX_ENTRIES = 100_000

_NO_METADATA = {"exists": False, "size_bytes": None, "modified_at_ms": None}


class _Path(Request):
    path: str

    def about(self) -> str:
        return self.path


class _Prefix(Request):
    prefix: str

    def about(self) -> str:
        return self.prefix


class _WriteText(_Path):
    content: str


@host_function("host_read_file", _Path, refuse=envelope)
def _read_file(context: HostContext, request: _Path) -> bytes:
    content = _read(context, request.path)
    try:
        _require_utf8(content)
    except UnicodeDecodeError as error:
        raise ServiceError(f"{request.path!r} is not UTF-8 text; use host_read_binary") from error
    return content


@host_function("host_read_binary", _Path, refuse=envelope)
def _read_binary(context: HostContext, request: _Path) -> bytes:
    return as_data(_read(context, request.path, encoded_ratio=4 / 3))


@host_function("host_list_files", _Prefix, refuse=envelope)
def _list_files(context: HostContext, request: _Prefix) -> list[str]:
    directory = context.path(request.prefix)
    context.require(Permission.READ_FILES, directory.text)
    return _spelled(request.prefix, directory, _descendants(context, directory))


@host_function("host_list_dir", _Path, refuse=envelope)
def _list_dir(context: HostContext, request: _Path) -> list[str]:
    directory = context.path(request.path)
    context.require(Permission.READ_FILES, directory.text)
    return _spelled(request.path, directory, (child for child, _ in _children(context, directory)))


@host_function("host_workspace_file_set", Nothing, refuse=error_string)
def _workspace_file_set(context: HostContext, _: Nothing) -> list[str]:
    filesystem, root_index = context.filesystem, context.services.root_index
    if root_index is None:
        raise ServiceError(
            "the workspace has no root index (a Markdown file with `contents` and no `part_of`), or several; the host "
            "can name one with root_index="
        )
    context.require(Permission.READ_FILES, root_index.text)
    reachable = workspace_file_set(filesystem, root_index, context.check_deadline)
    allowed = []
    for path in reachable:
        context.check_deadline()
        if context.allows(Permission.READ_FILES, path):
            allowed.append(path)
    return allowed


@host_function("host_file_exists", _Path, refuse=constant(b"false"))
def _file_exists(context: HostContext, request: _Path) -> bytes:
    path = context.path(request.path)
    context.require(Permission.READ_FILES, path.text)
    return b"false" if context.filesystem.stat(path) is None else b"true"


@host_function("host_file_metadata", _Path, refuse=constant(to_json(_NO_METADATA)))
def _file_metadata(context: HostContext, request: _Path) -> dict[str, Any]:
    path = context.path(request.path)
    context.require(Permission.READ_FILES, path.text)
    stat = context.filesystem.stat(path)
    if stat is None:
        return _NO_METADATA
    return {"exists": True, "size_bytes": stat.size_bytes, "modified_at_ms": stat.modified_at_ms}


@host_function("host_hash_file", _Path, refuse=constant(b""))
def _hash_file(context: HostContext, request: _Path) -> dict[str, str]:
    path = context.path(request.path)
    context.require(Permission.READ_FILES, path.text)
    digest = hashlib.sha256()
    with context.filesystem.open(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            context.check_deadline()
    return {"hash": digest.hexdigest()}


@host_function("host_write_file", _WriteText, refuse=error_string, max_input_bytes=None, effect="file_written")
def _write_file(context: HostContext, request: _WriteText) -> None:
    _write(context, request.path, request.content.encode("utf-8"))


@host_function("host_write_binary", _WriteText, refuse=error_string, max_input_bytes=None, effect="file_written")
def _write_binary(context: HostContext, request: _WriteText) -> None:
    _write(context, request.path, from_base64(request.content, "content"))


@host_function("host_delete_file", _Path, refuse=error_string, effect="file_deleted")
def _delete_file(context: HostContext, request: _Path) -> None:
    path = context.path(request.path)
    context.require(Permission.DELETE_FILES, path.text)
    with _denying(context, Permission.DELETE_FILES, path):
        context.filesystem.delete(path)


def _read(context: HostContext, text: str, encoded_ratio: float = 1.0) -> bytes:
    """A whole file, when its answer fits into one frame."""
    path = context.path(text)
    context.require(Permission.READ_FILES, path.text)
    bound = int(context.services.frame_bytes / encoded_ratio) - 64  # the JSON around it
    with context.filesystem.open(path) as file:
        content = file.read(bound + 1)
    if len(content) > bound:
        raise ResourceLimitExceeded(
            context.plugin_id, f"the size of {text!r} in bytes", len(content), bound, "the host sets limits.frame"
        )
    return content


def _require_utf8(content: bytes) -> None:
    """Raises UnicodeDecodeError. Piece by piece, because as a whole a text may take four times the bytes."""
    if content.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _PIECE_BYTES):
        decoder.decode(content[start : start + _PIECE_BYTES])
    decoder.decode(b"", final=True)


def _write(context: HostContext, text: str, content: bytes) -> None:
    path = context.path(text)
    exists = context.filesystem.stat(path) is not None
    permission = Permission.EDIT_FILES if exists else Permission.CREATE_FILES
    context.require(permission, path.text)
    with _denying(context, permission, path):
        context.filesystem.write(path, content, replace=exists)  # what was permitted, also if somebody was quicker


@contextmanager
def _denying(context: HostContext, permission: Permission, path: WorkspacePath) -> Iterator[None]:
    """The root index's guard is a rule like the others, and its refusal no mishap: callers hear of it (``strict``)."""
    try:
        yield
    except GuardRefusal as error:
        raise PermissionDenied(context.plugin_id, str(error), permission=str(permission), target=path.text) from error


def _children(context: HostContext, directory: WorkspacePath) -> Iterator[tuple[WorkspacePath, bool]]:
    """Direct children that the rules do not exclude, with whether each is a directory."""
    for entry in context.filesystem.children(directory):
        context.check_deadline()  # for each: a check takes as long as there are rules
        child = directory.child(entry.name)
        if context.allows(Permission.READ_FILES, child.text):
            yield child, entry.is_directory


def _descendants(context: HostContext, directory: WorkspacePath) -> Iterator[WorkspacePath]:
    """Everything below, depth first; a directory that the rules exclude is not entered."""
    pending = [directory]
    while pending:
        context.check_deadline()  # here as well: folders may be empty
        subdirectories = []
        for child, is_directory in _children(context, pending.pop()):
            yield child
            if is_directory:
                subdirectories.append(child)
        pending.extend(reversed(subdirectories))


def _spelled(asked: str, directory: WorkspacePath, found: Iterator[WorkspacePath]) -> list[str]:
    """The paths in the spelling of the question: what was asked, then the rest of the way."""
    prefix = asked if not asked or asked.endswith("/") else f"{asked}/"
    depth = len(directory.parts)
    listing = []
    for path in found:
        listing.append(prefix + "/".join(path.parts[depth:]))
        if len(listing) > _MAX_ENTRIES:
            raise ResourceLimitExceeded(
                None, "the number of entries", len(listing), _MAX_ENTRIES, "list a narrower prefix"
            )
    return listing
