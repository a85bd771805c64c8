"""What modules have said of themselves when they were asked: enough to load a plugin without starting it.

The cache beside a module will not do for that. Whoever makes a plugin writes its folder, and could write another
plugin's id into it, whose rules and data it would get. This one lies in the state folder, which only the supervisor
writes, and counts for the very bytes that were asked.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from isoplug.shared.errors import LoadError
from isoplug.supervisor.files import read_bounded, reason, write_atomically
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.json_object import dump_object
from isoplug.supervisor.plugins.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest

__all__ = ["KnownManifests"]

_log = get_logger(__name__)


class KnownManifests:
    """A file for each path of a module: the module's SHA-256 on a line, its manifest behind it. Thread-safe. ``folder``
    is private, and made when it is needed; None: there is none, so nothing is known."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def recall(self, wasm: Path, sha256: str) -> Manifest | None:
        """What the module with this content said; None when nobody has asked it, or it cannot be read. Never raises."""
        if self._folder is None:
            return None
        try:
            data = read_bounded(self._place(self._folder, wasm), len(sha256) + 1 + MAX_MANIFEST_BYTES)
            known, _, manifest = data.partition(b"\n")
            return parse_manifest(manifest, wasm.parent.name) if known == sha256.encode() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LoadError) as error:
            _log.debug("manifest.not_recalled", path=wasm, reason=error)
            return None

    def remember(self, wasm: Path, sha256: str, manifest: Manifest) -> None:
        """The module with this content was asked, and said this. Never raises: otherwise it is asked again."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            data = dump_object(manifest.to_json_object(), MAX_MANIFEST_BYTES)
            write_atomically(self._place(self._folder, wasm), sha256.encode() + b"\n" + data)
        except (OSError, ValueError) as error:
            _log.debug("manifest.not_remembered", plugin=manifest.id, path=wasm, reason=reason(error))

    def _place(self, folder: Path, wasm: Path) -> Path:
        return folder / hashlib.sha256(os.fsencode(os.path.abspath(wasm))).hexdigest()
