"""From a folder to running plugins: start, admit, prepare, and one version in the place of another (SPEC section 2)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from isoplug.shared.errors import LoadError, PluginNotFound
from isoplug.shared.lockdown import Protection
from isoplug.supervisor.calls import Frame
from isoplug.supervisor.calls.runner import CallRunner
from isoplug.supervisor.calls.sockets import SocketGuest
from isoplug.supervisor.config import Config
from isoplug.supervisor.deadline import MAX_TIMEOUT_SECONDS, Deadline
from isoplug.supervisor.host import Services
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.manifest import Manifest, check_compatible
from isoplug.supervisor.plugins.module import Stamp
from isoplug.supervisor.plugins.sidecar import read_config
from isoplug.supervisor.plugins.table import Plugin, PluginTable
from isoplug.supervisor.plugins.versions import Release, Terms, Versions
from isoplug.supervisor.pool import Chain, Keeper, LeaseBook, Pool, PoolSettings, Worker
from isoplug.supervisor.starting import Started, Starter

__all__ = ["Admitted", "Loader"]

_log = get_logger(__name__)


class Admitted(NamedTuple):
    """A plugin that is in the table, with its worker still to be prepared, as part of ``chain``; None: it sleeps."""

    plugin: Plugin
    worker: Worker | None
    chain: Chain

    @property
    def is_asleep(self) -> bool:
        return self.worker is None


class Loader:
    """Puts plugins into the table, changes their version, and takes them out. Thread-safe."""

    def __init__(
        self,
        starter: Starter,
        runner: CallRunner,
        table: PluginTable,
        services: Services,
        book: LeaseBook,
        keeper: Keeper,
        config: Config,
    ) -> None:
        self.starter = starter
        self._runner = runner
        self._table = table
        self._services = services
        self._book = book
        self._keeper = keeper
        self._config = config
        # Taken before the table's lock, never after; entered by itself, see ``Keeper``.
        self._lock = threading.RLock()
        self._unloaded = threading.Condition(self._lock)
        self._unloading: set[str] = set()

    def load_one(self, files: PluginFiles) -> Plugin:
        """Load one module outside a scan. Raises PluginError."""
        return self.prepare(self.admit(self.starter.start(self.starter.read(files))))

    def inspect(self, wasm: Path) -> Manifest:
        """The module's own manifest; nothing is cached, everything is denied. Raises PluginError."""
        return self.starter.inspect(PluginFiles.beside(wasm))

    @property
    def protection(self) -> Protection | None:
        """See ``Supervisor.protection``."""
        return self.starter.protection

    def let_go(self) -> None:
        """In a fork of the host."""
        self.starter.let_go()

    # --- a plugin that is new -------------------------------------------------------------------------------------

    def admit(self, started: Started) -> Admitted:
        """Into the table, if its id is free and it fits this host. Raises PluginError; then it has ended."""
        manifest = started.manifest
        try:
            settings = self._settings(manifest)
            plugin = Plugin(manifest.id, started.files)
            chain = Chain()
            plugin.versions = self._versions(plugin, self._release(plugin, started, chain, settings))
            self._add(plugin)
            self._services.websockets.admit(SocketGuest(self._runner, self._services, plugin))
        except BaseException:
            started.discard()
            raise
        self._warn_of_capabilities(manifest)
        return Admitted(plugin, started.worker, chain)

    def prepare(self, admitted: Admitted) -> Plugin:
        """``set_config`` and ``init`` in an admitted plugin's worker, if it has one; calls that wait for it go ahead.
        Raises PluginError; then it is out of the table again."""
        plugin, worker, chain = admitted
        frame = Frame(chain, Deadline.after(self._config.calls.start_timeout))
        try:
            if worker is None:
                plugin.told = read_config(plugin.config_path, plugin.id)
            else:
                plugin.told = self.starter.prepare(worker, plugin.id, plugin.config_path, frame)
        except BaseException:
            if worker is not None:
                worker.end()
            # Somebody may have unloaded it meanwhile; otherwise it may have connected before it failed.
            with suppress(PluginNotFound), self.unloading(plugin):
                self._services.websockets.dismiss(plugin.id)
            self._abandon(plugin.versions.in_charge)
            raise
        if worker is None:
            _log.info("plugin.loaded", plugin=plugin.id, version=plugin.manifest.version, state="asleep")
        else:
            plugin.pool.adopt(worker)
            _log.info("plugin.loaded", plugin=plugin.id, version=plugin.manifest.version, pid=worker.pid)
        return plugin

    def _add(self, plugin: Plugin) -> None:
        with self._lock:
            if not self._unloaded.wait_for(lambda: plugin.id not in self._unloading, self._config.calls.start_timeout):
                raise LoadError(
                    f"plugin {plugin.id!r} is still being unloaded; load it when that has ended", plugin_id=plugin.id
                )
            self._table.add(plugin)

    # --- another version of one that is loaded --------------------------------------------------------------------

    def upgrade(self, plugin: Plugin, started: Started) -> None:
        """Prepare ``started`` beside the version in charge, then put it in charge.

        Raises PluginError; then ``started`` has ended and nothing has changed.
        """
        chain = Chain()
        worker = started.worker
        assert worker is not None  # it is asked, not what is known of it
        try:
            settings = _on_trial(self._settings(started.manifest))
            release = self._release(plugin, started, chain, settings)
        except BaseException:
            started.discard()
            raise
        try:
            frame = Frame(chain, Deadline.after(self._config.calls.start_timeout))
            self._take_over(plugin, started, worker, release, frame)
        except BaseException:
            worker.end()
            self._abandon(release)
            raise
        self._warn_of_capabilities(started.manifest)
        _log.info("plugin.version_changed", plugin=plugin.id, version=plugin.manifest.version, pid=worker.pid)

    def _take_over(self, plugin: Plugin, started: Started, worker: Worker, release: Release, frame: Frame) -> None:
        config = self.starter.prepare(worker, plugin.id, started.files.config, frame)
        with plugin.changing_config(frame.deadline):
            now = read_config(started.files.config, plugin.id)
            if now != config:  # somebody changed it while the new version was being prepared
                config = self.starter.configure(worker, plugin.id, started.files.config, now or {}, frame)
            with self._lock:
                if Stamp.of(started.files.wasm) != started.module.stamp:
                    raise LoadError(
                        f"{started.files.wasm} was changed again while its new version was started; reload again",
                        plugin_id=plugin.id,
                    )
                if self._table.get(plugin.id) is not plugin:
                    raise PluginNotFound(plugin.id)
                restart = self._config.of_plugin(plugin.id).restart
                plugin.versions.promote(release, Terms(restart.trial_calls, restart.healthy_after))
                plugin.files, plugin.told = started.files, config
        release.pool.adopt(worker)

    # --- a plugin that goes ---------------------------------------------------------------------------------------

    @contextmanager
    def unloading(self, plugin: Plugin) -> Iterator[None]:
        """Take the plugin out of the table. Nobody loads another one with its id before the block has ended: services
        know plugins by their ids, and would take the one for the other. Raises PluginNotFound when it is no longer
        there."""
        with self._lock:
            if self._table.get(plugin.id) is not plugin:
                raise PluginNotFound(plugin.id)
            self._table.remove(plugin.id)
            self._unloading.add(plugin.id)
        try:
            yield
        finally:
            with self._lock:
                self._unloading.remove(plugin.id)
                self._unloaded.notify_all()

    def end(self, plugin: Plugin, deadline: Deadline) -> None:
        """End all versions of it: calls in progress may finish until ``deadline``, guests get ``shutdown``."""
        for release in plugin.versions.stop():
            self._close(release, deadline)
        plugin.versions.join(deadline)

    def _retire(self, release: Release) -> None:
        """Of a plugin that stays: nobody is in a hurry, and each of its calls has a deadline of its own."""
        self._close(release, Deadline.after(MAX_TIMEOUT_SECONDS))

    def _close(self, release: Release, deadline: Deadline) -> None:
        release.pool.close(deadline)
        release.module.close()

    def _abandon(self, release: Release) -> None:
        release.pool.abandon()
        release.module.close()

    # --- one version ----------------------------------------------------------------------------------------------

    def _settings(self, manifest: Manifest) -> PoolSettings:
        """Raises LoadError for what does not fit this host, or its configuration."""
        check_compatible(manifest, self._config.app_version)
        settings = PoolSettings.of(self._config, manifest.id)
        if settings.workers > 1 and not manifest.stateless:
            raise LoadError(
                f"plugin {manifest.id!r} is to have {settings.workers} workers, but its manifest does not say that "
                'it keeps no state in memory ("stateless": true); remove workers from its section in the '
                "configuration",
                plugin_id=manifest.id,
            )
        return settings

    def _versions(self, plugin: Plugin, first: Release) -> Versions:
        def on_change() -> None:
            self._runner.poisons.clear(plugin.id)  # what one version dies of, the other may well handle
            self._services.websockets.greet(plugin.id)

        return Versions(first, self._retire, on_change)

    def _release(self, plugin: Plugin, started: Started, chain: Chain, settings: PoolSettings) -> Release:
        """With a pool that waits for ``started``'s worker, which is prepared as part of ``chain``, or that sleeps."""
        module = started.module

        def start(chain: Chain, deadline: Deadline, depth: int) -> Worker:
            frame = Frame(chain, deadline, depth)
            return self.starter.start_again(module, plugin.id, plugin.config_path, frame)

        pool = Pool(
            plugin.id,
            settings,
            start,
            partial(self.starter.farewell, plugin.id),
            self._book,
            self._keeper,
            on_restarted=lambda: self._services.websockets.greet(plugin.id),
            on_lost=lambda loss: plugin.versions.lost(pool, loss),
            is_needed=lambda: self._services.websockets.is_connected(plugin.id),
            retire=module.template.retire,
        )
        if started.worker is None:
            pool.begin_asleep()
        else:
            pool.reserve(chain)
        return Release(started.manifest, module, pool)

    def _warn_of_capabilities(self, manifest: Manifest) -> None:
        for capability in manifest.unknown_capabilities:
            _log.warning("plugin.unknown_capability", plugin=manifest.id, capability=capability)


def _on_trial(settings: PoolSettings) -> PoolSettings:
    """One loss at least, for that is what ends a trial: who waits must go over to the old version then, not hear of a
    quarantine."""
    restart = settings.restart
    return replace(settings, restart=replace(restart, max_restarts=max(1, restart.max_restarts)))
