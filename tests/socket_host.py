"""What the tests of WebSockets share: a supervisor with the plugin ``socket``, and what that heard."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, Http, Websockets
from sync_server import SyncServer

__all__ = ["PLUGIN", "QUICK", "Host", "envelope", "order", "own_ends", "start_host"]

PLUGIN = "test.socket"
SERVERS = ["localhost", "127.0.0.1"]
QUICK = Websockets(reconnect_initial=0.05, reconnect_max=0.2)


@dataclass
class Host:
    """A supervisor with the plugin ``socket``, and what that told it. While ``listens`` is not set the plugin waits in
    the middle of telling."""

    supervisor: Supervisor
    workspace: Workspace
    events: list[dict[str, Any]] = field(default_factory=list)
    listens: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.listens.set()

    def emit(self, plugin_id: str, event_json: str) -> None:
        self.listens.wait(WAIT_SECONDS)
        self.events.append(json.loads(event_json))

    def start_afresh(self) -> None:
        """For the next test: without a connection, with the usual permission, and nothing heard."""
        self.request(type="disconnect")
        self.workspace.grant(PLUGIN, http_requests=SERVERS)
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("isoplug-websockets-")])
        self.events.clear()

    def request(self, **request: Any) -> dict[str, Any]:
        answer = self.supervisor.call(PLUGIN, "request", json.dumps(request).encode())
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    def connect(self, server: SyncServer | str, workspace_id: str = "w1", **more: Any) -> dict[str, Any]:
        url = server if isinstance(server, str) else server.url()
        return self.request(type="connect", server_url=url, workspace_id=workspace_id, **more)

    def heard(self, export: str | None = None) -> list[str]:
        """The texts that came to an export, or the names of all exports that were called, in order."""
        heard = [event for event in tuple(self.events) if "heard" in event and event["heard"] != "answer"]
        return [e["heard"] for e in heard] if export is None else [e["text"] for e in heard if e["heard"] == export]

    def wait_heard(self, *exports: str) -> None:
        wait_until(lambda: len(self.heard()) >= len(exports), f"{exports}, heard {self.heard()}")
        assert self.heard() == list(exports)


def start_host(
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    workspace: Workspace,
    config: Any = None,
    websockets: Websockets = QUICK,
    **sections: Any,
) -> Host:
    """``config`` is the plugin's sidecar; ``sections`` are of the supervisor's configuration."""
    plugins.add(PLUGIN, variant="socket", config=config)
    workspace.grant(PLUGIN, http_requests=SERVERS)
    host = Host(None, workspace)  # type: ignore[arg-type]
    settings = Config(http=Http(allow_private=tuple(SERVERS)), websockets=websockets, **sections)
    host.supervisor = supervise(config=settings, events=host)
    assert not host.supervisor.load_errors
    return host


def envelope(*actions: tuple[int, bytes]) -> str:
    packed = b"".join(struct.pack("<BI", kind, len(payload)) + payload for kind, payload in actions)
    return base64.b64encode(struct.pack("<H", len(actions)) + packed).decode()


def order(**what: Any) -> str:
    return json.dumps(what)


def own_ends(port: int) -> list[object]:
    """This process's ends of connections to the port."""
    connections = psutil.Process().net_connections("tcp")
    return [c for c in connections if c.raddr and c.raddr.port == port and c.status != psutil.CONN_NONE]
