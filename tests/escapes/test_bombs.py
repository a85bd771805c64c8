"""Little things that a guest writes, and that would take the supervisor for ever, or all its memory, to read."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import PROBE, ask
from conftest import PluginFolder, Workspace, wait_until
from guests import guest, renamed
from isoplug.supervisor import (
    CallTimeout,
    Checker,
    ConfigError,
    Decision,
    Permission,
    PluginError,
    Supervisor,
    Verdict,
)

#: More than a deadline of half a second and what follows it, less than the seven that these take without one.
MOST_CPU_SECONDS = 2.0
PARROT, OTHER = "test.parrot", "test.other"


def cpu_seconds_until(call: Callable[[], Any], *errors: type[PluginError]) -> float:
    """Of this process, which a busy machine does not lengthen."""
    began = time.process_time()
    with pytest.raises(errors):
        call()
    return time.process_time() - began


def note(key: str, links: list[str]) -> str:
    return f"---\n{key}: [{', '.join(links)}]\n---\n"


def test_notes_that_attach_each_other_a_million_times_end_at_the_deadline(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    workspace.grant(PROBE, read_files=["all"])
    index = workspace.path / "README.md"
    index.write_text(index.read_text().replace("contents: []", "contents: [many.md]"))
    names = [f"about{number}.md" for number in range(500)]
    workspace.write("many.md", note("attachments", names))
    for name in names:
        workspace.write(name, note("attachment", [f"missing{number}" for number in range(2000)]))
    supervisor = supervise()
    took = cpu_seconds_until(lambda: ask(supervisor, "host_workspace_file_set", timeout=0.5), CallTimeout)
    assert took < MOST_CPU_SECONDS


def test_a_note_that_is_attached_again_and_again_is_read_once(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    workspace.grant(PROBE, read_files=["all"])
    index = workspace.path / "README.md"
    index.write_text(index.read_text().replace("contents: []", "contents: [many.md]"))
    workspace.write("many.md", note("attachments", ["about.md"] * 2000))
    workspace.write("about.md", note("attachment", ["picture.png"] * 2000))
    workspace.write("picture.png", "png")
    answer = ask(supervise(), "host_workspace_file_set", timeout=20.0)
    assert json.loads(answer) == ["README.md", "about.md", "many.md", "picture.png"]


LISTINGS = pytest.mark.parametrize(("function", "field"), [("host_list_dir", "path"), ("host_list_files", "prefix")])


@LISTINGS
def test_a_full_folder_under_many_rules_is_listed_in_time(
    function: str, field: str, plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    excluded = [f"private{number}" for number in range(1000)]
    workspace.grant(PROBE, read_files={"include": ["all"], "exclude": excluded})
    for number in range(4000):
        workspace.write(f"full/{number}")
    supervisor = supervise()
    began = time.process_time()
    assert len(json.loads(ask(supervisor, function, {field: "full"}))) == 4000
    assert time.process_time() - began < MOST_CPU_SECONDS


@LISTINGS
def test_a_full_folder_whose_checks_take_long_is_listed_until_the_deadline_only(
    function: str, field: str, plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    checked = []

    class Slow(Checker):
        def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
            checked.append(target)
            time.sleep(0.005)
            return Decision(Verdict.ALLOWED)

    plugins.add(PROBE)
    for number in range(4000):
        workspace.write(f"full/{number}")
    supervisor = supervise(permissions=Slow())
    with pytest.raises(CallTimeout):
        ask(supervisor, function, {field: "full"}, timeout=0.3)
    wait_until(lambda: not any(thread.name == "isoplug-service" for thread in threading.enumerate()))
    assert len(checked) < 4000


@pytest.mark.parametrize(
    "answer",
    [
        {"long key": {"k" * 3_000_000: [0] * 1_000_000}},
        {"deep": json.loads("[" * 90 + "0," * 500_000 + "0" + "]" * 90)},
    ],
    ids=["a long key above many values", "many values far down"],
)
def test_a_configuration_that_grows_when_it_is_written_is_refused_in_time(
    answer: dict[str, Any], plugins: PluginFolder, guest_cache: Path, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add_bytes("parrot", guest("parrot", guest_cache).read_bytes())
    said = json.dumps({"config": answer}, separators=(",", ":")).encode()

    class Says:
        def read(self, _plugin_id: str, key: str) -> bytes | None:
            return said if key == "set_config" else None

    supervisor = supervise(files=Says())
    with pytest.raises(ConfigError):  # and not CallTimeout
        supervisor.set_config(PARROT, {"old": True})
    assert json.loads((plugins.path / "parrot" / "config.json").read_text()) == {"old": True}


# --- what belongs to a plugin, where guests may write ---------------------------------------------------------------


def refused(supervisor: Supervisor, path: str) -> bool:
    content = base64.b64encode(b"\0asm evil").decode()
    answers = [
        ask(supervisor, "host_write_binary", {"path": path, "content": content}),
        ask(supervisor, "host_delete_file", {"path": path}),
    ]
    return all(b"may not write" in answer for answer in answers)


def everything(workspace: Workspace) -> None:
    workspace.grant(PROBE, **{name: ["all"] for name in ("read_files", "edit_files", "create_files", "delete_files")})


@pytest.mark.parametrize("name", ["plugin.wasm", "config.json", "manifest.json"])
def test_a_plugin_folder_that_is_a_link_into_the_workspace_is_closed_to_guests(
    name: str, plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    plugins.add(OTHER)
    everything(workspace)
    os.rename(plugins.path / OTHER, workspace.path / "other")
    (plugins.path / OTHER).symlink_to(workspace.path / "other")
    supervisor = supervise()
    assert set(supervisor.plugins) == {PROBE, OTHER}
    assert refused(supervisor, f"other/{name}")
    assert ask(supervisor, "host_write_file", {"path": "other/note.md", "content": "mine"}) == b""


def test_a_module_that_is_loaded_from_the_workspace_is_closed_to_guests(
    plugins: PluginFolder, workspace: Workspace, guest_cache: Path, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    everything(workspace)
    module = workspace.write("mine/other.wasm", renamed(guest("probe", guest_cache).read_bytes(), OTHER))
    supervisor = supervise()
    supervisor.load_plugin(module, workspace.path / "settings" / "other.json")
    for path in ("mine/other.wasm", "settings/other.json", "mine/manifest.json"):
        assert refused(supervisor, path), path
    assert ask(supervisor, "host_write_file", {"path": "mine/note.md", "content": "mine"}) == b""
