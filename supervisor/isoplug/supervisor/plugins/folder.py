"""Where plugins lie: a folder of folders, each with a module and what belongs to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from isoplug.shared.errors import SetupError
from isoplug.supervisor.files import reason

__all__ = ["PluginFiles", "scan"]

_MODULE = "plugin.wasm"


@dataclass(frozen=True, slots=True)
class PluginFiles:
    """Where one plugin lies. ``name`` is its folder's name, or the module's unless that is ``plugin.wasm``."""

    name: str
    wasm: Path
    config: Path
    manifest: Path

    @classmethod
    def beside(cls, wasm: Path, config: Path | None = None, name: str | None = None) -> PluginFiles:
        if name is None:
            name = wasm.absolute().parent.name if wasm.name == _MODULE else wasm.stem
        return cls(name, wasm, config or wasm.parent / "config.json", wasm.parent / "manifest.json")

    def is_in(self, plugins_dir: Path) -> bool:
        """Whether ``scan(plugins_dir)`` would find it, as long as it is there."""
        wasm = self.wasm.absolute()
        return wasm.name == _MODULE and os.path.realpath(wasm.parent.parent) == os.path.realpath(plugins_dir)


def scan(plugins_dir: Path) -> list[PluginFiles]:
    """Every subfolder with a ``plugin.wasm``, sorted by name; others are skipped. Raises SetupError."""
    try:
        folders = sorted(entry.name for entry in os.scandir(plugins_dir) if entry.is_dir())
    except OSError as error:
        raise SetupError(
            f"cannot read the plugins folder {plugins_dir}: {reason(error)}; make it, or name another"
        ) from error
    found = [PluginFiles.beside(plugins_dir / name / _MODULE, name=name) for name in folders]
    return [files for files in found if _is_there(files.wasm)]


def _is_there(wasm: Path) -> bool:
    """Also when it cannot be looked at: what nobody can see is not gone."""
    try:
        os.lstat(wasm)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
