"""Looking at a module without trusting it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import PluginError
from isoplug.supervisor.assembly import configured, engine, runtime_folder, wasi_runner
from isoplug.supervisor.config import Config
from isoplug.supervisor.host import LogSink, NoHttp, NoOfferedFiles, NoSecrets, NoStorage, Services, WorkspaceContext
from isoplug.supervisor.host.defaults import no_sockets
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import DenyAll
from isoplug.supervisor.plugins.manifest import Manifest, check_compatible
from isoplug.supervisor.plugins.table import PluginTable

__all__ = ["inspect"]

_log = get_logger(__name__)


def inspect(wasm_path: str | os.PathLike[str], *, app_version: str | None = None) -> Manifest:
    """The manifest of a module, without a workspace and with every permission denied.

    An incompatible version is logged as a warning, it does not fail. Raises LoadError, SetupError and the errors of a
    call.
    """
    check_platform()
    config = configured(Config(), app_version=app_version)
    with ExitStack() as cleanup:
        runtime = runtime_folder(cleanup)
        services = Services(
            permissions=DenyAll(),
            storage=NoStorage(),
            secrets=NoSecrets(),
            events=LogSink(),
            files=NoOfferedFiles(),
            runtime_context=WorkspaceContext(None, DenyAll()),
            http=NoHttp(),
            websockets=no_sockets(),
            namespaces=None,
            wasi=wasi_runner(config, runtime, cleanup),
            filesystem=None,
            root_index=None,
            workspace=None,
            storage_quota_bytes=0,
            frame_bytes=config.limits.frame,
            may_block=False,
        )
        _, loader = engine(config, runtime, services, PluginTable(), cleanup)
        manifest = loader.inspect(Path(wasm_path))
    try:
        check_compatible(manifest, config.app_version)
    except PluginError as error:
        _log.warning("plugin.incompatible", plugin=manifest.id, reason=str(error))
    return manifest
