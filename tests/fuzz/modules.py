"""Modules that were bent, through a real worker: they load or they do not, in time, and nobody else notices."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

import isoplug.supervisor
from fuzz.targets import Target
from isoplug.supervisor import PluginError, PluginNotFound, Supervisor
from isoplug.supervisor.config import Calls, Config, Limits

__all__ = ["Loader", "bundled", "target"]

_HEADER = b"\0asm\x01\0\0\0"
_START_SECONDS = 10.0
_CALL_SECONDS = 2.0
#: Beyond all deadlines: a loaded machine is slow, and what hangs never comes.
_PATIENCE_SECONDS = 30.0
#: What the host may keep of all modules together; a leak of a module each time would pass it within a few hundred.
_GROWTH_BYTES = 100 << 20


def bundled() -> list[Path]:
    """Modules that are there without a compiler."""
    return sorted((Path(isoplug.supervisor.__file__).parent / "demo" / "plugins").glob("*/plugin.wasm"))


class Loader:
    """A supervisor with one good plugin, into which modules are loaded one after the other. Close it."""

    def __init__(self, folder: Path, good: Path) -> None:
        self._wasm = folder / "bent" / "plugin.wasm"
        self._wasm.parent.mkdir(parents=True)
        config = Config(
            calls=Calls(start_timeout=_START_SECONDS, timeout=_CALL_SECONDS, shutdown_timeout=1.0),
            limits=Limits(wasm_memory=64 << 20, process_memory=256 << 20),
        )
        self._supervisor = Supervisor(config=config, state_dir=folder / "state")
        self._good = self._supervisor.load_plugin(good).id
        self._process, self._before = psutil.Process(), None

    def close(self) -> None:
        self._supervisor.close()

    def feed(self, data: bytes) -> None:
        """``data`` is a module; its first eight bytes are put right, or none would come any further."""
        self._wasm.write_bytes(_HEADER + data[len(_HEADER) :])
        begun = time.monotonic()
        with suppress(PluginError):
            plugin = self._supervisor.load_plugin(self._wasm)
            for export in ("manifest", "handle_command", "shutdown"):
                with suppress(PluginError):
                    self._supervisor.call(plugin.id, export, b"{}")
            with suppress(PluginNotFound):
                self._supervisor.unload(plugin.id)
        seconds = time.monotonic() - begun
        assert seconds < _START_SECONDS + 3 * _CALL_SECONDS + _PATIENCE_SECONDS, f"it took {seconds:.0f} s"
        self._check_the_rest()

    def _check_the_rest(self) -> None:
        assert list(self._supervisor.plugins) == [self._good]
        assert b'"id"' in self._supervisor.call(self._good, "manifest", timeout=_PATIENCE_SECONDS)
        size = self._process.memory_info().rss
        self._before = self._before or size
        assert size - self._before < _GROWTH_BYTES, f"the host has grown by {(size - self._before) >> 20} MiB"


def target(folder: Path) -> Target:
    """For ``run.py``: its processes end with this one, ``folder`` is its own."""
    good, *others = bundled()
    return Target(Loader(folder, good).feed, [path.read_bytes() for path in others])
