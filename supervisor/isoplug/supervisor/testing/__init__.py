"""For tests of plugins and of hosts: recording services, harnesses that drive plugins, and faults for them.

    from isoplug.supervisor.testing import PluginHarness

    with PluginHarness("target/plugin.wasm", permissions={"read_files": ["all"]}) as plugin:
        assert plugin.command("count", {"path": "README.md"}) == {"words": 0}

Supervisor, worker process, files, namespaces and host functions are real. The network, events, permissions, storage and
secrets are services that remember, which can be handed to any ``Supervisor`` as well. Under pytest, the fixtures
``isoplug_plugin`` and ``isoplug_supervisor`` make harnesses and close them after the test, and a marker has faults
strike them (``pytest_plugin``).

The names below are imported when they are first used: pytest loads ``pytest_plugin``, and with it this module, in each
of its runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoplug.supervisor.testing.events import Emitted, RecordingEvents
    from isoplug.supervisor.testing.faults import Faults
    from isoplug.supervisor.testing.folder import SupervisorHarness
    from isoplug.supervisor.testing.harness import PluginHarness
    from isoplug.supervisor.testing.http import RecordingHttp, Sent
    from isoplug.supervisor.testing.permissions import Asked, RecordingPermissions
    from isoplug.supervisor.testing.secrets import MemorySecrets
    from isoplug.supervisor.testing.storage import RecordingStorage, StorageAccess
    from isoplug.supervisor.testing.websockets import RecordingSockets, SentMessage

__all__ = [
    "Asked",
    "Emitted",
    "Faults",
    "MemorySecrets",
    "PluginHarness",
    "RecordingEvents",
    "RecordingHttp",
    "RecordingPermissions",
    "RecordingSockets",
    "RecordingStorage",
    "Sent",
    "SentMessage",
    "StorageAccess",
    "SupervisorHarness",
]

_HOMES = {
    "Asked": "permissions",
    "Emitted": "events",
    "Faults": "faults",
    "MemorySecrets": "secrets",
    "PluginHarness": "harness",
    "RecordingEvents": "events",
    "RecordingHttp": "http",
    "RecordingPermissions": "permissions",
    "RecordingSockets": "websockets",
    "RecordingStorage": "storage",
    "Sent": "http",
    "SentMessage": "websockets",
    "StorageAccess": "storage",
    "SupervisorHarness": "folder",
}


def __getattr__(name: str) -> Any:
    """PEP 562, as in ``isoplug.supervisor``."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
