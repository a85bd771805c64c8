"""For tests of plugins and of hosts: recording services, and a harness that drives one plugin.

    from isoplug.supervisor.testing import PluginHarness

    with PluginHarness("target/plugin.wasm", permissions={"read_files": ["all"]}) as plugin:
        assert plugin.command("count", {"path": "README.md"}) == {"words": 0}

Supervisor, worker process, files, namespaces and host functions are real. The network, events, permissions, storage and
secrets are services that remember, which can be handed to any ``Supervisor`` as well. Under pytest, the fixture
``isoplug_plugin`` makes harnesses and closes them after the test (``pytest_plugin``).

The names below are imported when they are first used: pytest loads ``pytest_plugin``, and with it this module, in each
of its runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoplug.supervisor.testing.events import Emitted, RecordingEvents
    from isoplug.supervisor.testing.harness import PluginHarness
    from isoplug.supervisor.testing.http import RecordingHttp, Sent
    from isoplug.supervisor.testing.permissions import Asked, RecordingPermissions
    from isoplug.supervisor.testing.secrets import MemorySecrets
    from isoplug.supervisor.testing.storage import RecordingStorage, StorageAccess
    from isoplug.supervisor.testing.websockets import RecordingSockets, SentMessage

__all__ = [
    "Asked",
    "Emitted",
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
]

_HOMES = {
    "Asked": "permissions",
    "Emitted": "events",
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
}


def __getattr__(name: str) -> Any:
    """PEP 562, as in ``isoplug.supervisor``."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
