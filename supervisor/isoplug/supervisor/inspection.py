"""Looking at a module without trusting it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from isoplug.shared.errors import PluginError
from isoplug.supervisor.assembly import Observers, OwnServices, build_services, engine, module_folder
from isoplug.supervisor.config import Config, configured
from isoplug.supervisor.host import NoHttp
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.permissions import DenyAll
from isoplug.supervisor.plugins.manifest import Manifest, check_compatible
from isoplug.supervisor.plugins.table import PluginTable
from isoplug.supervisor.runtime_folder import make_runtime_folder
from isoplug.supervisor.websockets import NoSockets

__all__ = ["inspect"]

_log = get_logger(__name__)


def inspect(
    wasm_path: str | os.PathLike[str], *, app_version: str | None = None, config: Config | None = None
) -> Manifest:
    """The manifest of a module, without a workspace and with every permission denied.

    An incompatible version is logged as a warning, it does not fail. ``config``: its limits, pins and trusted keys
    count, its folders do not. Raises LoadError, SetupError and the errors of a call.
    """
    check_platform()
    config = configured(config or Config(), app_version=app_version)
    config = config.override(plugins_dir=None, workspace=None, state_dir=None, root_index=None)
    own = OwnServices(permissions=DenyAll(), http=NoHttp(), websockets=NoSockets())
    with ExitStack() as cleanup:
        runtime = cleanup.enter_context(make_runtime_folder())
        services = build_services(config, own, None, None, runtime, cleanup)
        modules = module_folder(config, None, None)
        _, loader = engine(config, runtime, modules, services, PluginTable(), Observers(), cleanup)
        manifest = loader.inspect(Path(wasm_path))
    try:
        check_compatible(manifest, config.app_version)
    except PluginError as error:
        _log.warning("plugin.incompatible", plugin=manifest.id, reason=str(error))
    return manifest
