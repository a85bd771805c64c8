"""Plugins that get new versions while they run, for tests of reload and upgrade."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import PluginFolder, wait_until
from guests import guest, renamed
from isoplug.supervisor import PluginStatus, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart

__all__ = ["PROBE", "build", "config", "overwrite", "put", "status", "upgrade", "wait_settled"]

PROBE = "test.probe"


def build(plugins: PluginFolder, version: str = "2.0.0", *defines: str, plugin_id: str = PROBE) -> bytes:
    """A probe of that version."""
    return renamed(guest("probe", plugins.cache, f"GUEST_VERSION={version}", *defines).read_bytes(), plugin_id)


def put(wasm: Path, module: bytes) -> None:
    """As an installer does: the new file takes the old one's name in one step."""
    fresh = wasm.with_name("new.wasm")
    fresh.write_bytes(module)
    os.replace(fresh, wasm)


def overwrite(wasm: Path, module: bytes) -> None:
    """As ``cp`` does: in place."""
    wasm.write_bytes(module)


def config(calls: dict[str, Any] | None = None, **restart: Any) -> Config:
    """By default without patience: a trial is passed by calls only, and a plugin backs off shortly."""
    quick = {"backoff_initial": 0.01, "backoff_max": 0.02, "backoff_jitter": 0.0, "healthy_after": 600.0}
    return Config(calls=Calls(**(calls or {})), restart=Restart(**(quick | restart)))


def upgrade(supervisor: Supervisor, wasm: Path, module: bytes, how: Callable[[Path, bytes], None] = put) -> None:
    how(wasm, module)
    report = supervisor.reload()
    assert report.upgraded == (PROBE,), report


def status(supervisor: Supervisor) -> PluginStatus:
    return supervisor.status()[PROBE]


def wait_settled(supervisor: Supervisor) -> None:
    """Until no version but the one in charge has a process."""
    wait_until(lambda: len(supervisor.plugins[PROBE].versions.all) == 1)
