"""The plugin's connection to a sync server. The checks and the queues are the desk's (websockets/desk.py)."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias, assert_never

from pydantic import Field, TypeAdapter

from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, from_base64, host_function, to_json
from isoplug.supervisor.websockets import sync_target

__all__: list[str] = []

#: The URL made of them stays below what servers commonly take.
_Name: TypeAlias = Annotated[str, Field(max_length=2048)]


class _Connect(Request):
    type: Literal["connect"]
    server_url: _Name
    workspace_id: _Name
    auth_token: _Name | None = None
    session_code: _Name | None = None
    write_to_disk: bool | None = None


class _SendBinary(Request):
    type: Literal["send_binary"]
    data: str


class _SendText(Request):
    type: Literal["send_text"]
    text: str


class _Disconnect(Request):
    type: Literal["disconnect"]


_Any: TypeAlias = Annotated[_Connect | _SendBinary | _SendText | _Disconnect, Field(discriminator="type")]
_ANY: TypeAdapter[_Connect | _SendBinary | _SendText | _Disconnect] = TypeAdapter(_Any)


class _Request(Request):
    """One of the four, told apart by ``type``."""

    body: _Any

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        return cls.model_construct(body=_ANY.validate_json(payload))

    def about(self) -> str:
        return self.body.type


def _failure(message: str) -> bytes:
    return to_json({"ok": False, "error": message})


@host_function("host_ws_request", _Request, refuse=_failure, max_input_bytes=None)
def _ws_request(context: HostContext, request: _Request) -> dict[str, bool]:
    desk, plugin_id, note = context.services.websockets, context.plugin_id, context.note
    note.begin()
    match request.body:
        case _Connect() as wanted:
            write_to_disk = True if wanted.write_to_disk is None else wanted.write_to_disk
            target = sync_target(
                wanted.server_url, wanted.workspace_id, wanted.auth_token, wanted.session_code, write_to_disk
            )
            note.kind, note.target = "websocket_opened", target.host
            if not desk.connect(plugin_id, target):
                note.kind = None
        case _SendBinary(data=data):
            note.kind, note.target = "websocket_sent", "a binary message"
            desk.send(plugin_id, from_base64(data, "data"))
        case _SendText(text=text):
            note.kind, note.target = "websocket_sent", "a text message"
            desk.send(plugin_id, text)
        case _Disconnect():
            note.kind, note.target = "websocket_closed", "its connection"
            if not desk.disconnect(plugin_id):
                note.kind = None
        case _:
            assert_never(request.body)
    return {"ok": True}
