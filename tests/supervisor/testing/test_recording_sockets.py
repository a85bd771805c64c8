"""The test is the server of a plugin's WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_until_computing
from guests import guest
from isoplug.supervisor import Config, InvalidArgument
from isoplug.supervisor.config.model import Websockets
from isoplug.supervisor.testing import PluginHarness, RecordingSockets, SentMessage

SOCKET = "test.socket"


def request(plugin: PluginHarness, **fields: Any) -> Any:
    """What ``host_ws_request`` answers the guest."""
    return json.loads(plugin.call("request", json.dumps(fields).encode()))


def connect(plugin: PluginHarness, workspace_id: str = "journal") -> None:
    fields = {"type": "connect", "server_url": "https://sync.example", "workspace_id": workspace_id}
    assert request(plugin, **fields) == {"ok": True}


def heard(plugin: PluginHarness, what: str, text: str | None = None) -> Any:
    """Wait until the guest's export ``what`` was called, with ``text``."""
    return plugin.events.wait_for(lambda event: event["heard"] == what and text in (None, event["text"]), 20.0)


@pytest.fixture
def plugin(guest_cache: Path) -> Iterator[PluginHarness]:
    with PluginHarness(guest("socket", guest_cache)) as harness:
        yield harness


def test_a_connection_stands_at_once_and_the_test_sees_where_it_leads(plugin: PluginHarness) -> None:
    connect(plugin)
    assert json.loads(heard(plugin, "on_connected")["text"]) == {"workspace_id": "journal", "write_to_disk": True}
    (target,) = plugin.websockets.targets
    assert target.host == "sync.example"
    assert target.url == "wss://sync.example/sync2?workspace_id=journal"


def test_what_the_guest_sends_or_answers_is_kept_and_can_be_waited_for(plugin: PluginHarness) -> None:
    connect(plugin)
    assert request(plugin, type="send_text", text="grüße") == {"ok": True}
    plugin.websockets.deliver(b"\x00back")  # which this guest sends back
    assert plugin.websockets.wait_for(lambda message: isinstance(message, bytes), 20.0) == b"\x00back"
    assert plugin.websockets.sent == [SentMessage(SOCKET, "grüße"), SentMessage(SOCKET, b"\x00back")]
    plugin.websockets.clear()
    assert plugin.websockets.messages == []
    plugin.websockets.deliver("text")
    heard(plugin, "handle_text_message", "text")


def test_a_lost_connection_and_its_return_reach_the_guest(plugin: PluginHarness) -> None:
    connect(plugin)
    heard(plugin, "on_connected")
    plugin.websockets.drop()
    heard(plugin, "on_disconnected")
    plugin.events.clear()
    plugin.websockets.reconnect()
    heard(plugin, "on_connected")


def test_a_crash_keeps_the_connection_and_the_new_worker_is_told(plugin: PluginHarness) -> None:
    connect(plugin)
    heard(plugin, "on_connected")
    plugin.events.clear()
    plugin.crash()
    heard(plugin, "on_connected")
    assert len(plugin.websockets.targets) == 1


def test_another_target_takes_the_place_of_the_old_one(plugin: PluginHarness) -> None:
    connect(plugin, "first")
    connect(plugin, "second")
    assert [target.workspace_id for target in plugin.websockets.targets] == ["second"]
    assert request(plugin, type="disconnect") == {"ok": True}
    assert plugin.websockets.targets == []


def test_without_a_connection_there_is_nobody_to_deliver_to(plugin: PluginHarness) -> None:
    for act in (plugin.websockets.drop, plugin.websockets.reconnect, lambda: plugin.websockets.deliver("x")):
        with pytest.raises(InvalidArgument, match="no plugin has a connection"):
            act()
    connect(plugin)
    with pytest.raises(InvalidArgument, match=r"'test\.other' does not have a connection"):
        plugin.websockets.deliver("x", plugin_id="test.other")


def test_two_plugins_are_told_apart_by_name(guest_cache: Path) -> None:
    sockets = RecordingSockets()
    wasm = guest("socket", guest_cache).read_bytes()
    other = wasm.replace(b"test.socket", b"test.sockeu")
    with PluginHarness(wasm, websockets=sockets) as one, PluginHarness(other, websockets=sockets) as two:
        connect(one)
        connect(two)
        with pytest.raises(InvalidArgument, match="2 plugins"):
            sockets.deliver("x")
        sockets.deliver("for two", plugin_id=two.id)
        heard(two, "handle_text_message", "for two")
        assert all(event["heard"] != "handle_text_message" for event in one.events.received)


def test_a_restarted_plugin_has_no_connection_any_more(plugin: PluginHarness) -> None:
    connect(plugin)
    plugin.restart()
    assert plugin.websockets.targets == []


def test_delivering_to_a_guest_that_is_stuck_fails_the_test_instead_of_waiting_for_ever(guest_cache: Path) -> None:
    one_at_a_time = Config(websockets=Websockets(queue=1))
    with PluginHarness(guest("socket", guest_cache), host_config=one_at_a_time) as plugin:
        connect(plugin)
        heard(plugin, "on_connected")
        with pytest.raises(AssertionError, match="does not handle"):
            plugin.websockets.deliver('{"do": "spin"}', timeout=0.05)
        wait_until_computing(plugin.supervisor.plugins[SOCKET])
        plugin.crash()  # or the end would wait for the call
