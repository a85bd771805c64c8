"""One plugin under test: the real supervisor and a real worker, around them services that remember."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from isoplug.shared.errors import InvalidArgument, LoadError
from isoplug.shared.record import CallRecord
from isoplug.supervisor.calls import Cancellation, Interceptor
from isoplug.supervisor.config import Config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import HttpClient
from isoplug.supervisor.events import encode_event
from isoplug.supervisor.files import reason
from isoplug.supervisor.host import EventSink
from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.plugins.folder import PluginFiles
from isoplug.supervisor.plugins.manifest import Manifest
from isoplug.supervisor.plugins.sidecar import write_config
from isoplug.supervisor.secrets import Secrets
from isoplug.supervisor.storage import Storage
from isoplug.supervisor.supervisor import OfferedFiles
from isoplug.supervisor.testing.faults import Faults
from isoplug.supervisor.testing.folder import Permissions, SupervisorHarness, Workspace
from isoplug.supervisor.websockets import WebSockets

__all__ = ["PluginHarness"]

_WAIT_SECONDS = 10.0


class PluginHarness(SupervisorHarness):
    """Loads one plugin and drives it::

        with PluginHarness("target/plugin.wasm", workspace={"a.md": "Hello"}) as plugin:
            plugin.http.answer("GET", "https://api.example/", json={"ok": True})
            assert plugin.command("count") == {"words": 1}
            assert plugin.events.received == [{"type": "counted"}]

    Args:
        wasm: the module, as a path or as bytes. It is loaded from a copy: no manifest.json appears beside it.
        config: the plugin's configuration at its start.
        permissions, workspace, events, storage, http, secrets, websockets, host_config, faults, interceptors, others:
            as with ``SupervisorHarness``, also for what it raises.
    """

    def __init__(
        self,
        wasm: str | os.PathLike[str] | bytes,
        *,
        permissions: Permissions = None,
        config: dict[str, Any] | None = None,
        workspace: Workspace = None,
        events: EventSink | None = None,
        storage: Storage | None = None,
        http: HttpClient | None = None,
        secrets: Secrets | None = None,
        websockets: WebSockets | None = None,
        host_config: Config | None = None,
        faults: Faults | None = None,
        interceptors: Sequence[Interceptor] = (),
        **others: Any,
    ) -> None:
        self._given, self._config = wasm, config
        super().__init__(
            permissions=permissions,
            workspace=workspace,
            events=events,
            storage=storage,
            http=http,
            secrets=secrets,
            websockets=websockets,
            host_config=host_config,
            faults=faults,
            interceptors=interceptors,
            **others,
        )

    # --- what the plugin is ---------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        return self.supervisor.plugins[self.id].manifest

    @property
    def status(self) -> PluginStatus:
        """State, process ids, restarts, the last failure, memory and CPU."""
        return self.supervisor.plugins[self.id].status

    # --- driving it -----------------------------------------------------------------------------------------------

    def command(
        self,
        name: str,
        params: Any = None,
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
        cancellation: Cancellation | None = None,
    ) -> Any:
        """See ``Supervisor.command``, also for what it raises. ``strict=True`` fails a test whose plugin asks for
        what it may not have."""
        return self.supervisor.command(
            self.id,
            name,
            params,
            timeout=timeout,
            files=files,
            retries=retries,
            strict=strict,
            record=record,
            cancellation=cancellation,
        )

    def call(
        self,
        export: str,
        data: bytes = b"",
        *,
        timeout: float | Deadline | None = None,
        files: OfferedFiles | None = None,
        retries: int = 0,
        strict: bool = False,
        record: CallRecord | None = None,
        cancellation: Cancellation | None = None,
    ) -> bytes:
        """See ``Supervisor.call``."""
        return self.supervisor.call(
            self.id,
            export,
            data,
            timeout=timeout,
            files=files,
            retries=retries,
            strict=strict,
            record=record,
            cancellation=cancellation,
        )

    def emit(self, event_type: str, payload: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> None:
        """Deliver an event and wait until the plugin has handled it.

        A host only logs when a handler fails; here it is raised, as by ``call``. Raises InvalidArgument for an event
        that no host would deliver to this plugin, since its manifest lacks the capability.
        """
        payload = dict(payload or {})
        if str(event_type).startswith("workspace_"):
            payload.setdefault("workspace_root", str(self.workspace))
        capability, event = encode_event(event_type, payload)
        if capability not in self.manifest.capabilities:
            raise InvalidArgument(
                f"plugin {self.id!r} gets no {event_type!r} events: its manifest does not declare {capability!r}"
            )
        self.supervisor.call(self.id, "on_event", event, timeout=timeout)

    def get_config(self) -> Any:
        """See ``Supervisor.get_config``."""
        return self.supervisor.get_config(self.id)

    def set_config(self, config: dict[str, Any]) -> None:
        """See ``Supervisor.set_config``."""
        self.supervisor.set_config(self.id, config)

    # --- its life -------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Kill the worker as a crash would, and wait until the supervisor knows. The next call waits for a new one,
        which has had ``set_config`` and ``init``. More than ``restart.max_restarts`` crashes quarantine the plugin,
        until ``reset``."""
        pids = self.status.worker_pids
        for pid in pids:
            _kill(pid)
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while set(pids) & set(self.status.worker_pids):
            if time.monotonic() > give_up_at:
                raise AssertionError(f"worker {pids} of plugin {self.id!r} was killed and is still in use")
            time.sleep(0.001)

    def restart(self) -> None:
        """As when the application ends and starts again: ``shutdown``, a new process, ``set_config``, ``init``. Storage
        and files stay, what the plugin kept in memory does not."""
        self.supervisor.unload(self.id)
        self.supervisor.load_plugin(self._wasm)

    def reset(self) -> None:
        """See ``Supervisor.reset``: out of quarantine."""
        self.supervisor.reset(self.id)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        self._wasm = _placed(self._given, self._folder)
        if self._config is not None:
            write_config(self._wasm.with_name("config.json"), self._config, "under test")
        try:
            self.id = self.supervisor.load_plugin(self._wasm).id
        except LoadError as error:
            if not isinstance(self._given, bytes):
                error.add_note(f"{self._wasm} is a copy of {os.fspath(self._given)}")
            raise


def _placed(wasm: str | os.PathLike[str] | bytes, folder: Path) -> Path:
    """A copy in a folder of its own, for the sidecars; messages call the plugin by the folder's name."""
    if isinstance(wasm, bytes):
        name, module = "plugin", wasm
    else:
        name, module = PluginFiles.beside(Path(wasm)).name, _read(Path(wasm))
    placed = folder / "plugins" / name / "plugin.wasm"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(module)
    return placed


def _read(wasm: Path) -> bytes:
    try:
        return wasm.read_bytes()
    except OSError as error:
        raise LoadError(f"cannot read {wasm}: {reason(error)}; build the plugin, or check its path") from error


def _kill(pid: int) -> None:
    """Wait for the death too: a worker that is still dying counts as alive."""
    with suppress(ProcessLookupError):  # it died by itself
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], _WAIT_SECONDS)
        finally:
            os.close(process)
