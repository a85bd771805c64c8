"""``isoplug.supervisor.sdk.build``: what an author sees when it works and when it does not."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import nothing_left_behind
from guests import guest
from isoplug.shared.errors import CommandError, SetupError
from isoplug.supervisor import sdk
from isoplug.supervisor.testing import PluginHarness

MINIMAL = '#include "isoplug.h"\nIP_MANIFEST({"id": ID})\n'


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    source = folder / "guest.c"
    source.write_text(text)
    return source


def test_a_build_leaves_the_module_and_nothing_else(tmp_path: Path) -> None:
    source = write(tmp_path / "source", MINIMAL)
    sdk.build(source, tmp_path / "made" / "plugin.wasm")
    assert (tmp_path / "made" / "plugin.wasm").read_bytes().startswith(b"\0asm")
    assert [path.name for path in source.parent.iterdir()] == ["guest.c"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["plugin.wasm"]


def test_defines_reach_the_compiler(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(manifest) { return ip_output(ip_s(TEXT)); }\n')
    sdk.build(source, tmp_path / "plugin.wasm", defines=['TEXT="told from outside"'])
    assert b"told from outside" in (tmp_path / "plugin.wasm").read_bytes()


def test_only_host_functions_that_are_used_are_imported(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(init) { ip_log("info", ip_s("x")); return 0; }\n')
    sdk.build(str(source), str(tmp_path / "plugin.wasm"))  # paths may be text
    module = (tmp_path / "plugin.wasm").read_bytes()
    assert b"host_log" in module
    assert b"host_read_file" not in module


def test_a_source_that_does_not_compile_is_a_setup_error_with_the_compilers_words(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(init) { return undeclared_name; }\n')
    with pytest.raises(SetupError, match="undeclared_name"):
        sdk.build(source, tmp_path / "plugin.wasm")
    assert not (tmp_path / "plugin.wasm").exists()


def test_a_missing_source_is_a_setup_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"absent\.c"):
        sdk.build(tmp_path / "absent.c", tmp_path / "plugin.wasm")


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"  # one that has no ziglang
    interpreter.write_text('#!/bin/sh\necho "python: No module named ziglang" >&2\nexit 1\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(SetupError, match="pip install ziglang"):
        sdk.build(write(tmp_path / "source", MINIMAL), tmp_path / "plugin.wasm")


# --- what reaches beyond the machine --------------------------------------------------------------------------------


class Server:
    """A runtime context with a server."""

    def get(self, plugin_id: str) -> dict[str, Any]:
        return {"server_url": "https://sync.example/base", "auth_token": "s3cret"}


@pytest.fixture(scope="module")
def loaded(guest_cache: Path) -> Iterator[PluginHarness]:
    with nothing_left_behind(), PluginHarness(guest("network", guest_cache), runtime_context=Server()) as plugin:
        yield plugin


@pytest.fixture
def plugin(loaded: PluginHarness) -> PluginHarness:
    loaded.http.clear()
    return loaded


def decoded(answer: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return answer["status"], answer["headers"], base64.b64decode(answer["body_base64"])


def test_a_guest_gets_status_headers_and_the_exact_bytes(plugin: PluginHarness) -> None:
    plugin.http.answer("GET", "https://a.example/x", b"\xff\x00", status=203, headers={"x-kind": "test"})
    assert decoded(plugin.command("get", {"url": "https://a.example/x"})) == (203, {"x-kind": "test"}, b"\xff\x00")
    plugin.http.answer("GET", "https://a.example/empty", status=404)
    assert decoded(plugin.command("get", {"url": "https://a.example/empty"})) == (404, {}, b"")


def test_a_guest_posts_bytes_with_their_type(plugin: PluginHarness) -> None:
    plugin.http.answer("POST", "https://a.example/x", status=201)
    assert decoded(plugin.command("post", {"url": "https://a.example/x"}))[0] == 201
    (request,) = plugin.http.requests
    assert request.body == b"\xff\x01"
    assert dict(request.headers)["content-type"] == "application/x-test"


def test_a_guest_is_told_why_there_is_no_answer(plugin: PluginHarness) -> None:
    plugin.http.fail("GET", "https://a.example/down", "connection refused")
    with pytest.raises(CommandError, match="connection refused") as caught:
        plugin.command("get", {"url": "https://a.example/down"})
    assert caught.value.error_code == "no_answer"


@pytest.mark.parametrize(("path", "url"), [("", "mail"), ("send/now", "mail/send/now")])
def test_a_guest_posts_json_through_the_servers_proxy(path: str, url: str, plugin: PluginHarness) -> None:
    plugin.http.answer("POST", f"https://sync.example/base/api/proxy/{url}", json=[1])
    assert decoded(plugin.command("proxy", {"path": path}))[2] == b"[1]"
    (request,) = plugin.http.requests
    assert json.loads(request.body) == {"a": 1}
    assert ("Authorization", "Bearer s3cret") in request.headers


def test_a_guest_fetches_what_is_offered(plugin: PluginHarness) -> None:
    assert base64.b64decode(plugin.command("offered", files={"photo": b"\x00\xff"})) == b"\x00\xff"
    with pytest.raises(CommandError, match="no photo"):
        plugin.command("offered")


def test_a_guest_keeps_and_deletes_a_secret(plugin: PluginHarness) -> None:
    assert plugin.command("secret", {"value": "gehe\u00efm"}) == "gehe\u00efm"
    assert plugin.secrets.values(plugin.id) == {}


def test_a_guest_stores_and_lists_objects_of_a_namespace(plugin: PluginHarness) -> None:
    (listed,) = plugin.command("namespace")
    assert (listed["key"], listed["mime_type"], listed["size_bytes"]) == ("a/b", "image/x", 2)


def test_a_guest_connects_sends_and_disconnects(plugin: PluginHarness) -> None:
    plugin.command("socket", {"url": "https://sync.example/base/", "stay": True})
    (target,) = plugin.websockets.targets
    assert (target.host, target.workspace_id) == ("sync.example", "journal")
    assert "token=s3cret" in target.url
    plugin.command("socket", {"url": "https://sync.example/base/"})
    assert plugin.websockets.messages == ["héllo", b"\xff\x01"] * 2
    assert plugin.websockets.targets == []
