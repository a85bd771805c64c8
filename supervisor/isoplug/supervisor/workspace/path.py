"""Names of files inside the workspace: parsed once, at the edge, into a type that cannot leave it.

Guests name files relative to the workspace or by an absolute path inside it. `WorkspacePath.parse` turns
either into components; what cannot be a workspace file is refused here with a text for the guest. Nothing in
this module touches files, except that an absolute path which does not start with the root as it was given is
compared with the resolved root too. Being inside *on disk* (symbolic links, hard links, devices) is the
concern of `filesystem`.

Called by host functions, permission checkers and `fileset`; `components` and `link_target` are the one place
that knows how paths and Markdown links are spelled, so that a rule and a file can never be split differently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.files import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WorkspacePath", "components", "is_temporary", "link_target"]

MAX_PATH_BYTES: Final = 4096  # PATH_MAX
MAX_NAME_BYTES: Final = 255  # NAME_MAX

_KEPT_CHARACTERS: Final = 200
"""Longer paths are parsed anew each time: guests choose them, and what is kept of them is a few MB at most."""


def components(text: str) -> tuple[str, ...]:
    """Split a path: backslashes are separators; empty components and ``.`` are dropped; ``..`` is kept for
    the caller."""
    return tuple([part for part in text.replace("\\", "/").split("/") if part and part != "."])


def link_target(text: str) -> str | None:
    """The path in a Markdown link, ``[Title](/a.md)`` or ``[Title](</a b.md>)``; any other text is a path
    already.

    None when the text begins like a link but does not end like one. A title that itself contains ``](``
    cannot be told from a path that does: the first one counts, as in the reference.
    """
    text = text.strip()
    if not text.startswith("[") or "](" not in text:
        return text
    if not text.endswith(")"):
        return None
    target = text[text.index("](") + 2 : -1].strip()
    if target.startswith("<"):
        return target[1:-1] if target.endswith(">") and len(target) > 1 else None
    return target


def is_temporary(name: str) -> bool:
    """Whether ``name`` is reserved for half-written files; in any case, since a folder may fold case."""
    return name.casefold().startswith(TEMPORARY_PREFIX)


@dataclass(frozen=True, slots=True, order=True)
class WorkspacePath:
    """A path inside the workspace as components; no components is the workspace itself.

    Raises:
        ServiceError: when a component is not a file name (``..``, a separator, NUL, too long, not UTF-8,
            reserved).
    """

    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.parts:
            _require_name(name)
        if len(self.text.encode()) > MAX_PATH_BYTES:
            raise ServiceError(f"the path {_shown(self.text)} is longer than {MAX_PATH_BYTES} bytes")

    @classmethod
    def parse(cls, text: str, root: Path | None = None) -> WorkspacePath:
        """Read a guest's spelling of a path. ``""``, ``.`` and the root itself mean the workspace.

        Args:
            text: relative to the workspace, or absolute inside ``root``, as given or with symbolic links
                resolved.
            root: the workspace; without one every absolute path is refused.

        Raises:
            ServiceError: NUL, not UTF-8, too long, ``..`` anywhere, absolute outside the root, or a reserved
                name.
        """
        if text.startswith(("/", "\\")):
            return cls(_below(root, _components(text), text))
        return _relative(text) if len(text) <= _KEPT_CHARACTERS else cls(_components(text))

    @property
    def text(self) -> str:
        """The components joined with ``/``; empty for the workspace itself."""
        return "/".join(self.parts)

    @property
    def is_root(self) -> bool:
        return not self.parts

    @property
    def name(self) -> str:
        """The last component; empty for the workspace itself."""
        return self.parts[-1] if self.parts else ""

    @property
    def parent(self) -> WorkspacePath:
        """The directory this is in; the workspace is its own parent."""
        return WorkspacePath(self.parts[:-1])

    @property
    def is_markdown(self) -> bool:
        return self.name.lower().endswith(".md")

    def child(self, name: str) -> WorkspacePath:
        return WorkspacePath((*self.parts, name))

    def __str__(self) -> str:
        return self.text or "."


@lru_cache(maxsize=512)
def _relative(text: str) -> WorkspacePath:
    """Of what was parsed last: a host call parses its path twice, for the rules and for the disk, and the next one
    often names the same file."""
    return WorkspacePath(_components(text))


def _components(text: str) -> tuple[str, ...]:
    _require_text(text)
    parts = components(text)
    if ".." in parts:
        raise ServiceError(f"the path {_shown(text)} contains '..', which is not allowed")
    return parts


def _below(root: Path | None, parts: tuple[str, ...], text: str) -> tuple[str, ...]:
    if root is None:
        raise ServiceError(f"the path {_shown(text)} is absolute, and there is no workspace to find it in")
    # Lazily: most guests use the spelling they were given, and realpath() has to look at the disk.
    for spelling in (os.path.abspath, os.path.realpath):
        base = components(spelling(root))
        if parts[: len(base)] == base:
            return parts[len(base) :]
    raise ServiceError(f"the path {_shown(text)} is outside the workspace")


def _require_text(text: str) -> None:
    if "\0" in text:
        raise ServiceError(f"the path {_shown(text)} contains a NUL byte")
    if len(text) > MAX_PATH_BYTES:
        raise ServiceError(f"the path {_shown(text)} is longer than {MAX_PATH_BYTES} bytes")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ServiceError(f"the path {_shown(text)} is not valid UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise ServiceError(f"the path {_shown(text)} is longer than {MAX_PATH_BYTES} bytes")


def _require_name(name: str) -> None:
    _require_text(name)
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ServiceError(f"{_shown(name)} is not a file name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ServiceError(f"the name {_shown(name)} is longer than {MAX_NAME_BYTES} bytes")
    if is_temporary(name):
        raise ServiceError(f"the name {_shown(name)} is reserved for half-written files")


def _shown(text: str) -> str:
    # A lone surrogate in an error text could not be sent to the guest.
    shown = repr(text[:100].encode(errors="backslashreplace").decode())
    return shown if len(text) <= 100 else f"{shown}..."
