"""The confined filesystem on real files: what it does, what it refuses, and with which words."""

from __future__ import annotations

import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor import files as whole_files
from isoplug.supervisor.workspace import DirectoryEntry, WorkspaceFilesystem, WorkspacePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = WorkspacePath.parse
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def fs(root: Path) -> Iterator[WorkspaceFilesystem]:
    """Fails a test that leaves a descriptor or a half-written file behind."""
    before = len(os.listdir("/proc/self/fd"))
    with WorkspaceFilesystem(root) as files:
        yield files
    assert len(os.listdir("/proc/self/fd")) == before
    assert leftovers(root) == []


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".isoplug-")] if root.exists() else []


def content(fs: WorkspaceFilesystem, path: str) -> bytes:
    with fs.open(P(path)) as stream:
        return stream.read()


# --- the ordinary -----------------------------------------------------------------------------------------


def test_what_was_written_is_read_and_parents_are_made(fs: WorkspaceFilesystem, root: Path) -> None:
    fs.write(P("a/b/c.md"), b"one")
    fs.write(P("a/b/c.md"), b"two")
    assert content(fs, "a/b/c.md") == b"two"
    assert (root / "a/b/c.md").read_bytes() == b"two"
    fs.write(P("empty"), b"")
    assert content(fs, "empty") == b""


def test_a_new_file_gets_what_the_umask_leaves_and_an_old_one_keeps_its_mode(
    fs: WorkspaceFilesystem, root: Path
) -> None:
    mask = os.umask(0o027)
    try:
        fs.write(P("new"), b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o640
    (root / "new").chmod(0o4755)
    fs.write(P("new"), b"y")
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o755


@needs_root
def test_an_old_file_keeps_its_owner(fs: WorkspaceFilesystem, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    os.chown(root / "a", 1234, 1235)
    fs.write(P("a"), b"y")
    status = (root / "a").stat()
    assert (status.st_uid, status.st_gid) == (1234, 1235)


def test_a_read_only_file_is_not_replaced(fs: WorkspaceFilesystem, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    (root / "a").chmod(0o444)
    with pytest.raises(ServiceError, match="read-only"):
        fs.write(P("a"), b"y")


def test_delete_removes_files_only(fs: WorkspaceFilesystem, root: Path) -> None:
    fs.write(P("d/a"), b"x")
    fs.delete(P("d/a"))
    assert not (root / "d/a").exists()
    for path, words in (("d", "it is a directory"), ("d/a", "no such file"), ("", "the workspace itself")):
        with pytest.raises(ServiceError, match=words):
            fs.delete(P(path))


def test_stat_tells_files_from_directories(fs: WorkspaceFilesystem, root: Path) -> None:
    fs.write(P("d/a"), b"12345")
    os.utime(root / "d/a", ns=(0, 1_700_000_000_123_456_789))
    found = fs.stat(P("d/a"))
    assert found is not None
    assert (found.is_directory, found.size_bytes, found.modified_at_ms) == (False, 5, 1_700_000_000_123)
    status = (root / "d/a").stat()
    assert found.identity == (status.st_dev, status.st_ino)
    for path in ("d", ""):
        directory = fs.stat(P(path))
        assert directory is not None
        assert directory.is_directory
    for path in ("missing", "missing/x", "d/a/x"):
        assert fs.stat(P(path)) is None


def test_children_are_sorted_and_leave_out_what_cannot_be_named_or_opened(fs: WorkspaceFilesystem, root: Path) -> None:
    for name in ("b.md", "a", "\u00e9", "new\nline"):
        (root / name).write_bytes(b"")
    (root / "dir").mkdir()
    (root / "link").symlink_to("a")
    (root / "dirlink").symlink_to("dir")
    (root / "back\\slash").write_bytes(b"")
    (root / ".isoplug-0123.tmp").write_bytes(b"")
    os.mkfifo(root / "fifo")
    (Path(os.fsdecode(os.fsencode(root) + b"/bad\xff"))).write_bytes(b"")
    assert fs.children(P("")) == [
        DirectoryEntry("a", False),
        DirectoryEntry("b.md", False),
        DirectoryEntry("dir", True),
        DirectoryEntry("new\nline", False),
        DirectoryEntry("\u00e9", False),
    ]
    assert fs.children(P("dir")) == []
    (root / ".isoplug-0123.tmp").unlink()
    for path, words in (
        ("a", "not a directory"),
        ("missing", "no such file"),
        ("dirlink", "not a directory"),
    ):
        with pytest.raises(ServiceError, match=words):
            fs.children(P(path))


# --- links, devices, other names --------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path, root: Path) -> Path:
    """A secret beside the workspace, and links to it of every kind inside."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_bytes(b"SECRET")
    (root / "file").symlink_to(directory / "secret")
    (root / "dir").symlink_to(directory)
    (root / "up").symlink_to("..")
    (root / "dangling").symlink_to(directory / "new")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self")
    (root / "real").write_bytes(b"inside")
    (root / "inner").symlink_to("real")
    return directory


@pytest.mark.parametrize(
    "path", ["file", "dir/secret", "up/outside/secret", "dangling", "loop", "proc/environ", "inner", "dir"]
)
def test_symbolic_links_are_refused_wherever_they_point(fs: WorkspaceFilesystem, outside: Path, path: str) -> None:
    before = sorted(os.listdir(outside))
    assert fs.stat(P(path)) is None
    for operation in (fs.open, fs.delete, lambda p: fs.write(p, b"evil")):
        with pytest.raises(ServiceError, match=r"link|directory"):
            operation(P(path))
    assert (outside / "secret").read_bytes() == b"SECRET"
    assert sorted(os.listdir(outside)) == before


def test_writing_below_a_linked_directory_makes_nothing_outside(fs: WorkspaceFilesystem, outside: Path) -> None:
    for path in ("dir/new", "dir/a/b/new", "up/outside/new", "dangling/new"):
        with pytest.raises(ServiceError):
            fs.write(P(path), b"evil")
    assert os.listdir(outside) == ["secret"]


def test_a_hard_link_is_not_opened_and_a_write_leaves_its_other_name_alone(
    fs: WorkspaceFilesystem, root: Path, outside: Path
) -> None:
    os.link(outside / "secret", root / "hard")
    with pytest.raises(ServiceError, match="hard link"):
        fs.open(P("hard"))
    fs.write(P("hard"), b"mine")
    assert (outside / "secret").read_bytes() == b"SECRET"
    assert content(fs, "hard") == b"mine"


def test_special_files_are_refused_without_waiting(fs: WorkspaceFilesystem, root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        for name in ("fifo", "socket"):
            assert fs.stat(P(name)) is None
            for operation in (fs.open, fs.delete, lambda p: fs.write(p, b"x")):
                with pytest.raises(ServiceError, match="not a regular file"):
                    operation(P(name))


@needs_root
def test_device_nodes_are_refused(fs: WorkspaceFilesystem, root: Path) -> None:
    try:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no permission to make device nodes")
    for operation in (fs.open, fs.delete, lambda p: fs.write(p, b"x")):
        with pytest.raises(ServiceError, match="not a regular file"):
            operation(P("null"))


def test_files_cannot_be_used_as_directories_nor_directories_as_files(fs: WorkspaceFilesystem) -> None:
    fs.write(P("file"), b"x")
    fs.write(P("dir/x"), b"x")
    for path in ("file/x", "file/x/y"):
        with pytest.raises(ServiceError, match="not a directory"):
            fs.write(P(path), b"x")
    for operation in (fs.open, lambda p: fs.write(p, b"x")):
        with pytest.raises(ServiceError, match="it is a directory"):
            operation(P("dir"))
        with pytest.raises(ServiceError, match="workspace itself"):
            operation(P(""))


# --- failure ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("outside")
def test_no_text_names_an_absolute_path(fs: WorkspaceFilesystem, root: Path) -> None:
    for operation in (fs.open, fs.delete, fs.children, lambda p: fs.write(p, b"x")):
        for path in ("file", "dir/x", "loop", "real/x"):
            with pytest.raises(ServiceError) as caught:
                operation(P(path))
            assert str(root.parent) not in str(caught.value)
            assert repr(path) in str(caught.value)


def test_a_root_that_is_not_a_directory_is_a_set_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing", tmp_path / "file", tmp_path / "nul\0"):
        with pytest.raises(SetupError):
            WorkspaceFilesystem(path)


def test_a_removed_root_gives_typed_errors_and_a_renamed_one_stays(fs: WorkspaceFilesystem, root: Path) -> None:
    fs.write(P("a"), b"x")
    root.rename(root.with_name("renamed"))
    assert content(fs, "a") == b"x"
    fs.delete(P("a"))
    root.with_name("renamed").rmdir()
    for operation in (
        fs.open,
        fs.delete,
        lambda p: fs.write(p, b"x"),
        lambda p: fs.write(p.child("y"), b"x"),
    ):
        with pytest.raises(ServiceError):
            operation(P("a"))
    assert fs.children(P("")) == []
    assert fs.stat(P("a")) is None


def test_after_close_every_call_is_refused(root: Path) -> None:
    files = WorkspaceFilesystem(root)
    files.close()
    files.close()
    for operation in (files.open, files.delete, files.children, files.stat, lambda p: files.write(p, b"x")):
        with pytest.raises(ServiceError, match="closed"):
            operation(P("a"))


def test_a_file_that_grows_after_it_was_opened_is_read_as_far_as_asked(fs: WorkspaceFilesystem, root: Path) -> None:
    fs.write(P("log"), b"one\n")
    with fs.open(P("log")) as stream, open(root / "log", "ab", buffering=0) as log:
        log.write(b"two\n" * 100_000)
        assert stream.read(200_003) == b"one\n" + b"two\n" * 49_999 + b"two"
        assert stream.read() == b"\n" + b"two\n" * 50_000


@pytest.fixture
def small_disk(root: Path, mounted: Callable[..., None]) -> Path:
    mounted(root, "-t", "tmpfs", "-o", "size=64k")
    return root


@pytest.mark.parametrize("has_unnamed_files", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    small_disk: Path, has_unnamed_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_unnamed_files:
        monkeypatch.setattr(whole_files, "_open_unnamed", lambda *_: None)
    with WorkspaceFilesystem(small_disk) as files:
        files.write(P("a"), b"old")
        with pytest.raises(ServiceError, match="No space left"):
            files.write(P("a"), b"x" * 200_000)
        assert content(files, "a") == b"old"
        assert os.listdir(small_disk) == ["a"]
        files.write(P("a"), b"new")
        assert content(files, "a") == b"new"


def test_file_systems_without_unnamed_files_work_too(
    fs: WorkspaceFilesystem, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_files, "_open_unnamed", lambda *_: None)
    fs.write(P("d/a"), b"one")
    fs.write(P("d/a"), b"two")
    assert content(fs, "d/a") == b"two"
    assert os.listdir(root / "d") == ["a"]


# --- places closed to guests ------------------------------------------------------------------------------


def test_a_closed_directory_can_be_read_and_not_written(root: Path) -> None:
    plugins = root / "tools" / "plugins"
    (plugins / "p").mkdir(parents=True)
    (plugins / "p" / "plugin.wasm").write_bytes(b"wasm")
    with WorkspaceFilesystem(root, [plugins]) as files:
        assert content(files, "tools/plugins/p/plugin.wasm") == b"wasm"
        for path in (
            "tools/plugins/p/plugin.wasm",
            "tools/plugins/new",
            "tools/plugins/evil/plugin.wasm",
            "tools/plugins",
        ):
            with pytest.raises(ServiceError, match="plugins may not write there"):
                files.write(P(path), b"evil")
            with pytest.raises(ServiceError):
                files.delete(P(path))
        files.write(P("tools/other"), b"fine")
        plugins.rename(root / "tools" / "PLUGINS2")
        plugins.symlink_to("PLUGINS2")  # the host follows it; guests must not get in by the real name
        for path in ("tools/PLUGINS2/p/plugin.wasm", "tools/PLUGINS2/new", "tools/plugins/new"):
            with pytest.raises(ServiceError):
                files.write(P(path), b"evil")
        with pytest.raises(ServiceError):
            files.delete(P("tools/PLUGINS2/p/plugin.wasm"))


def test_a_closed_directory_cannot_be_made_by_a_guest_before_the_host_does(root: Path) -> None:
    with WorkspaceFilesystem(root, [root / "plugins", root.parent / "elsewhere"]) as files:
        for path in ("plugins/evil/plugin.wasm", "PLUGINS/evil/plugin.wasm", "plugins"):
            with pytest.raises(ServiceError, match="plugins may not write there"):
                files.write(P(path), b"evil")
        files.write(P("elsewhere/x"), b"fine")
    assert not (root / "plugins").exists()


def test_closing_the_workspace_itself_makes_it_read_only(root: Path) -> None:
    (root / "a").write_bytes(b"x")
    with WorkspaceFilesystem(root, [root]) as files:
        assert content(files, "a") == b"x"
        for operation in (files.delete, lambda p: files.write(p, b"y")):
            with pytest.raises(ServiceError, match="plugins may not write there"):
                operation(P("a"))


def test_a_closed_directory_is_closed_by_its_other_mount_point_too(root: Path, mounted: Callable[..., None]) -> None:
    plugins = root / "plugins"
    alias = root / "alias"
    plugins.mkdir()
    alias.mkdir()
    mounted(alias, "--bind", source=str(plugins))
    with WorkspaceFilesystem(root, [plugins]) as files, pytest.raises(ServiceError, match="may not write"):
        files.write(P("alias/evil/plugin.wasm"), b"x")


def test_a_write_that_may_not_replace_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("old")
    with WorkspaceFilesystem(tmp_path) as filesystem:
        with pytest.raises(ServiceError, match="exists already"):
            filesystem.write(WorkspacePath(("a.md",)), b"new", replace=False)
        filesystem.write(WorkspacePath(("b.md",)), b"new", replace=False)
    assert (tmp_path / "a.md").read_text() == "old"
    assert (tmp_path / "b.md").read_text() == "new"


def test_of_many_writers_that_may_not_replace_exactly_one_wins(tmp_path: Path) -> None:
    def write(number: int) -> bool:
        try:
            workspace.write(WorkspacePath(("new.md",)), str(number).encode(), replace=False)
        except ServiceError:
            return False
        return True

    with WorkspaceFilesystem(tmp_path) as workspace, ThreadPoolExecutor(8) as threads:
        winners = [number for number, won in enumerate(threads.map(write, range(64))) if won]
    assert len(winners) == 1
    assert (tmp_path / "new.md").read_text() == str(winners[0])
    assert os.listdir(tmp_path) == ["new.md"]


def test_folders_are_not_made_deeper_than_tools_can_walk(tmp_path: Path) -> None:
    with WorkspaceFilesystem(tmp_path) as filesystem:
        filesystem.write(WorkspacePath(("a",) * 100), b"")
        with pytest.raises(ServiceError, match="deeper than 100 folders"):
            filesystem.write(WorkspacePath(("a",) * 99 + ("b", "c")), b"")
