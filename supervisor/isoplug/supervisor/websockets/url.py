"""The address of a Diaryx server's WebSocket. No I/O."""

from __future__ import annotations

from urllib.parse import urlencode

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import HttpUrl
from isoplug.supervisor.websockets.protocol import Target

__all__ = ["sync_target"]

_HTTP_OF = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
_SOCKET_OF = {"http": "ws", "https": "wss"}
#: What may stand at the end of a server's URL, because people copy it along; and the slashes between.
_NOT_OF_THE_BASE = ("sync", "sync2", "")


def sync_target(
    server_url: str, workspace_id: str, auth_token: str | None, session_code: str | None, write_to_disk: bool
) -> Target:
    """What a guest asked for, ready to be connected to. Raises ServiceError.

    Its URL is ``{server}/sync2?workspace_id=…&token=…&session=…`` as ``ws`` or ``wss``.
    """
    server = _server(server_url)
    url = _endpoint(server, workspace_id, auth_token, session_code)
    return Target(url, server.host, workspace_id, write_to_disk)


def _server(text: str) -> HttpUrl:
    scheme, mark, rest = text.strip().partition("://")
    if scheme.lower() not in _HTTP_OF or not mark:
        raise ServiceError("server_url must begin with https://, http://, wss:// or ws://")
    if "?" in rest or "#" in rest:
        raise ServiceError("server_url must end with its path: the query is made from the other fields")
    url = HttpUrl.parse(f"{_HTTP_OF[scheme.lower()]}://{rest}")
    steps = url.path.split("/")
    while steps and steps[-1] in _NOT_OF_THE_BASE:
        steps.pop()
    return HttpUrl(url.scheme, url.host, url.port, "/".join(steps), "")


def _endpoint(server: HttpUrl, workspace_id: str, auth_token: str | None, session_code: str | None) -> str:
    query = {"workspace_id": workspace_id, "token": auth_token, "session": session_code}
    encoded = urlencode({name: value for name, value in query.items() if value is not None})
    return f"{_SOCKET_OF[server.scheme]}://{server.authority}{server.path}/sync2?{encoded}"
