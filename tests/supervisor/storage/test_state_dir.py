"""Where state lives, and where it must not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from isoplug.shared.errors import SetupError
from isoplug.supervisor.state import state_dir_for


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    return place


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    place = tmp_path / "My Journal ü"
    place.mkdir()
    return place


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    place = tmp_path / "plugins"
    place.mkdir()
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_default_is_a_private_folder_per_workspace_with_a_readable_name(
    home: Path, workspace: Path, plugins: Path
) -> None:
    old = os.umask(0)
    try:
        folder = state_dir_for(workspace, plugins)
    finally:
        os.umask(old)
    assert folder.parent == home / "data" / "isoplug"
    assert folder.name.startswith("My-Journal-")
    assert mode(folder) == mode(folder.parent) == mode(home) == 0o700
    assert state_dir_for(workspace, plugins) == folder


def test_workspaces_of_the_same_name_have_different_folders(home: Path, tmp_path: Path, plugins: Path) -> None:
    folders = set()
    for parent in ("a", "b"):
        (tmp_path / parent / "journal").mkdir(parents=True)
        folders.add(state_dir_for(tmp_path / parent / "journal", plugins))
    assert len(folders) == 2
    assert all(folder.is_relative_to(home) for folder in folders)


def test_a_workspace_has_one_folder_by_whatever_path_it_is_named(
    home: Path, workspace: Path, plugins: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(workspace)
    folder = state_dir_for(workspace, plugins)
    assert state_dir_for(tmp_path / "link", plugins) == folder
    assert state_dir_for(tmp_path / "plugins" / ".." / workspace.name, plugins) == folder
    assert folder.is_relative_to(home)


def test_without_a_workspace_the_plugins_folder_names_it(home: Path, plugins: Path) -> None:
    folder = state_dir_for(None, plugins)
    assert folder.name.startswith("plugins-")
    assert folder.is_relative_to(home)


@pytest.mark.parametrize("below", ["", "state", "a/b/c"])
def test_a_folder_in_the_workspace_or_in_the_plugins_is_refused_and_not_made(
    workspace: Path, plugins: Path, below: str
) -> None:
    with pytest.raises(SetupError, match="state_dir="):
        state_dir_for(workspace, plugins, workspace / below)
    with pytest.raises(SetupError, match="plugins folder"):
        state_dir_for(workspace, plugins, plugins / below)
    assert list(workspace.iterdir()) == list(plugins.iterdir()) == []


def test_a_folder_that_contains_the_workspace_is_refused(workspace: Path, plugins: Path) -> None:
    with pytest.raises(SetupError, match="contains the workspace"):
        state_dir_for(workspace, plugins, workspace.parent)


def test_a_link_into_the_workspace_is_seen_through(workspace: Path, plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(workspace)
    with pytest.raises(SetupError, match="lies in the workspace"):
        state_dir_for(workspace, plugins, tmp_path / "elsewhere" / "state")
    with pytest.raises(SetupError, match="lies in the workspace"):
        state_dir_for(tmp_path / "elsewhere", plugins, workspace / "state")
    assert list(workspace.iterdir()) == []


def test_a_name_that_only_begins_like_the_workspace_is_fine(workspace: Path, plugins: Path) -> None:
    folder = workspace.with_name(workspace.name + "-state")
    assert state_dir_for(workspace, plugins, folder) == folder
    assert mode(folder) == 0o700


def test_the_home_folder_as_workspace_needs_a_folder_of_choice(home: Path, plugins: Path) -> None:
    home.mkdir()
    with pytest.raises(SetupError, match=r"lies in the workspace.*state_dir="):
        state_dir_for(home, plugins)
    assert list(home.iterdir()) == []


def test_an_empty_folder_that_is_open_to_others_is_closed(workspace: Path, plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    assert mode(state_dir_for(workspace, plugins, tmp_path / "state")) == 0o700


def test_a_folder_with_content_that_is_open_to_others_is_refused_with_the_command_to_run(
    workspace: Path, plugins: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "state" / "secrets").touch()
    with pytest.raises(SetupError, match=r"open to other users \(mode 0755\).*chmod 700"):
        state_dir_for(workspace, plugins, tmp_path / "state")
    (tmp_path / "state").chmod(0o700)
    state_dir_for(workspace, plugins, tmp_path / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_another_user_is_refused(workspace: Path, plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, 12345)
    with pytest.raises(SetupError, match="belongs to user 12345"):
        state_dir_for(workspace, plugins, tmp_path / "state")


def test_what_cannot_be_a_folder_is_a_set_up_error(workspace: Path, plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for place in (
        tmp_path / "file",
        tmp_path / "file" / "x",
        tmp_path / "loop" / "x",
        Path("a\0b"),
        Path("x" * 300),
    ):
        with pytest.raises(SetupError, match="state_dir="):
            state_dir_for(workspace, plugins, place)


def test_a_user_without_a_home_is_told_to_name_a_folder(workspace: Path, plugins: Path) -> None:
    code = """
import os, pathlib, sys
os.setuid(54321)  # a container's user: nobody knows it
from isoplug.shared.errors import SetupError
try:
    state_dir_for(pathlib.Path(sys.argv[1]), None)
except SetupError as error:
    print(error)
"""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    code = "from isoplug.supervisor.state import state_dir_for" + code
    command = [sys.executable, "-c", code, str(workspace)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert "choose a writable place with state_dir=" in run.stdout, run.stderr
