"""``--record``, ``isoplug replay`` and ``isoplug crashes``, as a person or a shell script runs them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import SCRIPT, needs_script
from conftest import PluginFolder, Workspace

PROBE = "test.probe"
FOLDERS = ("--plugins", "plugins", "--workspace", "workspace", "--state", "state")

pytestmark = needs_script


@dataclass(frozen=True)
class Shell:
    folder: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        """stdout, or stderr when it fails; the exit code must be ``code``."""
        done = subprocess.run(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env={**os.environ, "XDG_DATA_HOME": str(self.folder / "data")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout or done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def recordings(self) -> list[str]:
        return sorted(map(str, (self.folder / "state" / "recordings").glob("*.isorec")))


@pytest.fixture
def shell(tmp_path: Path, plugins: PluginFolder, workspace: Workspace) -> Shell:
    plugins.add()
    return Shell(tmp_path)


def test_a_call_is_recorded_when_asked_and_replayed(shell: Shell) -> None:
    shell.run("call", PROBE, "echo", "--params", "[1]", *FOLDERS)
    assert not shell.recordings()
    shell.run("call", PROBE, "echo", "--params", "[1]", "--record", *FOLDERS)
    (file,) = shell.recordings()
    assert shell.run("replay", file).startswith("same result")
    report = shell.json("replay", file)
    assert (report["verdict"], report["same"], report["plugin"]) == ("same", True, PROBE)


def test_an_event_is_recorded_when_asked(shell: Shell) -> None:
    shell.run("event", "file_saved", "--payload", '{"path": "a.md"}', "--record", *FOLDERS)
    (file,) = shell.recordings()
    assert shell.json("replay", file)["call"] == "on_event"


def test_recording_is_not_for_calls_that_the_service_makes(shell: Shell) -> None:
    assert "start the service with it" in shell.run("call", PROBE, "echo", "--attach", "--record", *FOLDERS, code=2)


def test_a_crash_is_listed_shown_and_replayed(shell: Shell) -> None:
    assert shell.run("crashes", *FOLDERS) == "no crashes\n"
    shell.run("call", PROBE, "trap", "--record", *FOLDERS, code=1)
    listed = shell.run("crashes", *FOLDERS)
    assert "test.probe handle_command: wasm `unreachable` instruction executed" in listed
    (report,) = shell.json("crashes", *FOLDERS)
    shown = shell.run("crashes", "show", report["id"][:4], *FOLDERS)
    for text in ("command 'trap'", "no_effects", "wasm function", "isoplug replay"):
        assert text in shown
    details = shell.json("crashes", "show", report["id"], *FOLDERS)
    assert details["signature"] == report["signature"]
    *command, file = details["occurrences"][0]["replay"].split()
    assert command == ["isoplug", "replay"]
    assert "crashed again with the same signature" in shell.run("replay", file)


def test_options_count_before_and_after_show(shell: Shell) -> None:
    shell.run("call", PROBE, "trap", *FOLDERS, code=1)
    (report,) = shell.json("crashes", *FOLDERS)
    before = shell.run("crashes", *FOLDERS, "show", report["id"])
    assert before == shell.run("crashes", "show", report["id"], *FOLDERS)
    assert "--record" in before  # how to get a recording the next time


def test_a_replay_that_differs_exits_with_1_and_says_where(shell: Shell, plugins: PluginFolder) -> None:
    shell.run("call", PROBE, "trap", "--record", *FOLDERS, code=1)
    (file,) = shell.recordings()
    other = plugins.add("test.other", variant="minimal")
    assert "note: another module was run" in shell.run("replay", file, "--module", str(other), code=1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["replay", "nowhere.isorec"], "cannot read the recording 'nowhere.isorec'"),
        (["replay", "workspace/README.md"], "not a recording that can be read"),
        (["crashes", "show", "123", *FOLDERS], "no crash has '123'; see isoplug crashes"),
        (["crashes"], "no state folder: there is neither a workspace nor a plugins folder"),
        (["crashes", "--config", "nowhere.toml"], "cannot read the configuration"),
    ],
)
def test_what_cannot_be_done_is_said_with_2(shell: Shell, arguments: list[str], text: str) -> None:
    assert text in shell.run(*arguments, code=2)
