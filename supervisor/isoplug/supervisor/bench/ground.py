"""Folders with plugins to measure: copies of one module under many names, and a workspace that grants them what they
ask for, by the same front matter as in real life."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isoplug.supervisor.config import Config
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["MODULE", "PAYLOAD", "Ground", "ask", "lay_out", "plugin_id"]

#: Built from bench.c beside it; a test compiles it again and compares.
MODULE: Final = Path(__file__).parent / "guest" / "plugin.wasm"
PAYLOAD: Final = b"x" * 100

_ID_MARK: Final = b"isoplug:guestid\0"
_ID_BYTES: Final = 64
_RULES: Final = {name: {"include": ["all"]} for name in ("read_files", "plugin_storage", "execute_commands")}


def plugin_id(number: int) -> str:
    return f"bench.p{number:03}"


def ask(function: str, times: int, *requests: dict[str, str]) -> bytes:
    """Input for the guest's ``ask``: it calls a host function so many times, with one request or with two in turn."""
    return f"{function} {times} ".encode() + "\n".join(map(json.dumps, requests)).encode()


@dataclass(frozen=True, slots=True)
class Ground:
    """``plugins``, ``journal`` and ``state`` in ``folder``."""

    folder: Path

    @property
    def plugins(self) -> Path:
        return self.folder / "plugins"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def supervisor(self, config: Config | None = None, **services: Any) -> Supervisor:
        """With all plugins loaded. Raises SetupError, and the error of a plugin that did not load."""
        supervisor = Supervisor(self.plugins, self.journal, state_dir=self.state, config=config, **services)
        for error in supervisor.load_errors.values():
            supervisor.close(0)
            raise error
        return supervisor


def lay_out(folder: Path, plugins: int = 1) -> Ground:
    """Make ``folder``, which is not there yet, with so many plugins. Raises OSError."""
    ground = Ground(folder)
    ground.journal.mkdir(parents=True)
    ground.plugins.mkdir()
    module = MODULE.read_bytes()
    ids = [plugin_id(number) for number in range(plugins)]
    for name in ids:
        (ground.plugins / name).mkdir()
        (ground.plugins / name / "plugin.wasm").write_bytes(_renamed(module, name))
    front = {"title": "Bench", "contents": [], "plugins": {name: {"permissions": _RULES} for name in ids}}
    (ground.journal / "README.md").write_text(f"---\n{json.dumps(front)}\n---\n")  # JSON is YAML
    (ground.journal / "a.md").write_text("a")
    return ground


def _renamed(module: bytes, name: str) -> bytes:
    start = module.index(_ID_MARK) + len(_ID_MARK)
    return module[:start] + name.encode().ljust(_ID_BYTES, b"\0") + module[start + _ID_BYTES :]
