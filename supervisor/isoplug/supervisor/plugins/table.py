"""The plugins of one supervisor, by id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from isoplug.shared.errors import LoadError, PluginNotFound
from isoplug.supervisor.observe.status import PluginStatus, resources_of
from isoplug.supervisor.plugins.manifest import Manifest
from isoplug.supervisor.pool import Pool

__all__ = ["Counters", "Plugin", "PluginTable"]

#: Cancelled tokens that are remembered per plugin; the oldest is forgotten first.
_MAX_TOKENS = 1_000


class Counters:
    """Calls of one plugin and how many of them failed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.failures = 0

    def begin(self) -> None:
        with self._lock:
            self.calls += 1

    def fail(self) -> None:
        with self._lock:
            self.failures += 1


class Plugin:
    """A loaded plugin. Hosts read ``id``, ``manifest``, ``wasm_path`` and ``status``."""

    def __init__(self, manifest: Manifest, wasm_path: Path, config_path: Path, pool: Pool) -> None:
        self.id = manifest.id
        self.manifest = manifest
        self.wasm_path = wasm_path
        self.config_path = config_path
        self.pool = pool
        self.counters = Counters()
        self.config_lock = threading.Lock()  # a sidecar and what the guest was told must not differ

    @property
    def status(self) -> PluginStatus:
        """A snapshot; reading it does not disturb the plugin."""
        pids = self.pool.worker_pids
        rss_bytes, cpu_seconds = resources_of(pids)
        return PluginStatus(
            id=self.id,
            name=self.manifest.name,
            version=self.manifest.version,
            state=self.pool.state.value,
            worker_pids=pids,
            restarts=self.pool.restarts,
            calls=self.counters.calls,
            failures=self.counters.failures,
            last_failure=self.pool.last_failure,
            rss_bytes=rss_bytes,
            cpu_seconds=cpu_seconds,
        )

    def __repr__(self) -> str:
        return f"<Plugin {self.id} {self.manifest.version}>"


class PluginTable:
    """Thread-safe. Ids are unique; the order is that of loading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plugins: dict[str, Plugin] = {}
        self._tokens: dict[str, OrderedDict[str, None]] = {}

    def add(self, plugin: Plugin) -> None:
        """Raises LoadError when the id is taken: the first one loaded keeps it."""
        with self._lock:
            other = self._plugins.get(plugin.id)
            if other is not None:
                raise LoadError(
                    f"plugin id {plugin.id!r} is taken by {other.wasm_path}; remove one of the two",
                    plugin_id=plugin.id,
                )
            self._plugins[plugin.id] = plugin

    def remove(self, plugin_id: str) -> Plugin:
        """Raises PluginNotFound."""
        with self._lock:
            self._tokens.pop(plugin_id, None)
            plugin = self._plugins.pop(plugin_id, None)
        if plugin is None:
            raise PluginNotFound(plugin_id, tuple(self.snapshot()))
        return plugin

    def get(self, plugin_id: str) -> Plugin:
        """Raises PluginNotFound."""
        plugin = self._plugins.get(plugin_id)
        if plugin is None:
            raise PluginNotFound(plugin_id, tuple(self.snapshot()))
        return plugin

    def snapshot(self) -> Mapping[str, Plugin]:
        with self._lock:
            return dict(self._plugins)

    def cancel_token(self, plugin_id: str, token: str) -> None:
        """Raises PluginNotFound."""
        self.get(plugin_id)
        with self._lock:
            tokens = self._tokens.setdefault(plugin_id, OrderedDict())
            tokens[token] = None
            tokens.move_to_end(token)
            if len(tokens) > _MAX_TOKENS:
                tokens.popitem(last=False)

    def is_token_cancelled(self, plugin_id: str, token: str) -> bool:
        with self._lock:
            return token in self._tokens.get(plugin_id, ())
