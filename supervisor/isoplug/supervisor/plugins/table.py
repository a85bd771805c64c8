"""The plugins of one supervisor, by id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoplug.shared.errors import CallTimeout, LoadError, PluginNotFound
from isoplug.supervisor.bell import held
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.status import PluginStatus, resources_of
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.manifest import Manifest
from isoplug.supervisor.plugins.versions import Versions
from isoplug.supervisor.pool import Pool

__all__ = ["Counters", "IdTaken", "Plugin", "PluginTable"]

#: Cancelled tokens that are remembered per plugin; the oldest is forgotten first.
_MAX_TOKENS = 1_000


class IdTaken(LoadError):
    """Two modules tell the same id. Nothing is wrong with the second one, once the first has gone."""

    def __init__(self, plugin_id: str, holder: Path) -> None:
        super().__init__(f"plugin id {plugin_id!r} is taken by {holder}; remove one of the two", plugin_id=plugin_id)


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
    """A loaded plugin. Hosts read ``id``, ``manifest``, ``wasm_path`` and ``status``. It stays the same object when
    another version of it takes over; ``manifest`` and ``pool`` are those of the one in charge."""

    def __init__(self, plugin_id: str, files: PluginFiles) -> None:
        self.id = plugin_id
        self.files = files
        self.counters = Counters()
        self._config_lock = threading.RLock()  # a sidecar and what the guest was told must not differ
        self._is_changing_config = False
        self.told: dict[str, Any] | None = None  # guarded by it: the configuration that every worker knows
        self.versions: Versions  #: set by the loader, before anybody else has the plugin

    @property
    def manifest(self) -> Manifest:
        return self.versions.in_charge.manifest

    @property
    def pool(self) -> Pool:
        return self.versions.in_charge.pool

    def renew(self, told: int | None) -> None:
        """The configuration has changed, and only the worker ``told`` knows; see ``Pool.renew``."""
        for release in self.versions.all:
            release.pool.renew(told)

    @property
    def wasm_path(self) -> Path:
        return self.files.wasm

    @property
    def config_path(self) -> Path:
        return self.files.config

    @contextmanager
    def changing_config(self, deadline: Deadline) -> Iterator[None]:
        """One at a time writes the sidecar and tells the guest. Raises CallTimeout."""
        with held(self._config_lock, deadline.remaining_seconds()) as is_mine:
            if not is_mine or self._is_changing_config:  # the latter: by this thread, further down its stack
                raise CallTimeout(self.id, "another change of its configuration", deadline.timeout_seconds)
            try:
                self._is_changing_config = True
                yield
            finally:
                self._is_changing_config = False

    @property
    def status(self) -> PluginStatus:
        """A snapshot; reading it does not disturb the plugin."""
        release = self.versions.in_charge
        pids = tuple(pid for each in self.versions.all for pid in each.pool.worker_pids)
        rss_bytes, cpu_seconds = resources_of(pids)
        return PluginStatus(
            id=self.id,
            name=release.manifest.name,
            version=release.version,
            state=release.pool.state.value,
            worker_pids=pids,
            restarts=self.versions.restarts,
            calls=self.counters.calls,
            failures=self.counters.failures,
            last_failure=release.pool.last_failure,
            rss_bytes=rss_bytes,
            cpu_seconds=cpu_seconds,
            upgrade=self.versions.note,
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
        """Raises IdTaken: the first one loaded keeps its id."""
        with self._lock:
            other = self._plugins.get(plugin.id)
            if other is not None:
                raise IdTaken(plugin.id, other.wasm_path)
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
