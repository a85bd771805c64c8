"""Landlock: what is open stays open, and nothing else can be reached."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from confined import confined, outcome, pretend_missing
from isoplug.worker.lockdown import capabilities, landlock, lifeline, privileges
from isoplug.worker.lockdown.layer import LayerMissing

CREATE_RULESET = 444


def landlock_version() -> int:
    try:
        return landlock.abi()
    except LayerMissing:
        return 0


VERSION = landlock_version()
pytestmark = pytest.mark.skipif(not VERSION, reason="this kernel has no Landlock")
since = lambda version: pytest.mark.skipif(version > VERSION, reason=f"needs Landlock {version}")  # noqa: E731


def denied(step: Callable[[], Any]) -> Any:
    """What ``step`` ends in after the lock."""
    return confined(capabilities.drop, privileges.renounce, landlock.deny_everything, step).value


@pytest.mark.parametrize(
    "attempt",
    [
        lambda folder: os.open(folder / "file", os.O_RDONLY),
        lambda folder: os.open(folder / "file", os.O_WRONLY),
        lambda folder: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
        lambda folder: os.listdir(folder),
        lambda folder: os.mkdir(folder / "new"),
        lambda folder: os.rmdir(folder / "empty"),
        lambda folder: os.unlink(folder / "file"),
        lambda folder: os.symlink("file", folder / "new"),
        lambda folder: os.mkfifo(folder / "new"),
        lambda folder: os.mknod(folder / "new"),
        lambda folder: os.execv("/bin/true", ["true"]),
        lambda folder: os.open("/dev/null", os.O_RDWR),
        lambda folder: os.open("/proc/self/status", os.O_RDONLY),
    ],
)
def test_no_file_can_be_opened_made_removed_or_executed(tmp_path: Path, attempt: Callable[[Path], Any]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert isinstance(denied(partial(attempt, tmp_path)), PermissionError)


@pytest.mark.parametrize("attempt", [os.rename, os.link])
def test_files_cannot_be_moved_or_linked_to_another_folder(tmp_path: Path, attempt: Callable[..., Any]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    error = denied(partial(attempt, tmp_path / "file", tmp_path / "folder" / "file"))
    assert error.errno in (errno.EACCES, errno.EXDEV)


@since(3)
def test_a_file_cannot_be_cut_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert isinstance(denied(partial(os.truncate, tmp_path / "file", 0)), PermissionError)


def test_a_file_that_is_open_can_still_be_read_and_written(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        assert denied(partial(file.write, b"seven b")) == 7
        file.seek(0)
        assert denied(partial(file.read)) == b"seven b"


@since(4)
@pytest.mark.parametrize("attempt", ["connect", "bind"])
def test_no_tcp_port_can_be_used_by_a_socket_that_is_there(attempt: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server, closing(socket.socket()) as client:
        address = server.getsockname() if attempt == "connect" else ("127.0.0.1", 0)
        assert isinstance(denied(partial(getattr(client, attempt), address)), PermissionError)


@since(6)
def test_nobody_outside_can_be_signalled() -> None:
    assert isinstance(denied(partial(os.kill, os.getpid(), 0)), PermissionError)


@since(6)
def test_no_abstract_socket_of_somebody_else_can_be_reached() -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server, closing(socket.socket(socket.AF_UNIX)) as client:
        server.bind(f"\0isoplug-test-{os.getpid()}")
        server.listen()
        assert isinstance(denied(partial(client.connect, server.getsockname())), PermissionError)


def test_forks_are_bound_as_well(tmp_path: Path) -> None:
    ending = denied(lambda: confined(partial(os.listdir, tmp_path)))
    assert isinstance(ending.value, PermissionError)


def test_the_lifeline_can_be_armed_afterwards_and_still_kills() -> None:
    def hang_up() -> None:
        read_end, write_end = os.pipe()
        lifeline.tie(read_end, signal.SIGKILL)
        os.close(write_end)
        signal.pause()

    ending = confined(capabilities.drop, privileges.renounce, landlock.deny_everything, hang_up)
    assert ending.killed_by == signal.SIGKILL


def beneath(folder: Path, step: Callable[[], Any]) -> Any:
    return confined(capabilities.drop, privileges.renounce, partial(landlock.confine_to, str(folder)), step).value


def test_beneath_its_folder_a_process_has_files_and_folders(tmp_path: Path) -> None:
    def live() -> str:
        os.mkdir(tmp_path / "folder")
        (tmp_path / "file").write_text("content")
        os.rename(tmp_path / "file", tmp_path / "other")
        os.symlink("other", tmp_path / "link")
        content = (tmp_path / "link").read_text()
        os.truncate(tmp_path / "other", 3)
        os.unlink(tmp_path / "link")
        os.rmdir(tmp_path / "folder")
        return content + (tmp_path / "other").read_text() + "".join(os.listdir(tmp_path))

    assert beneath(tmp_path, live) == "contentconother"


@since(2)
def test_beneath_its_folder_files_move_between_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert beneath(tmp_path, partial(os.rename, tmp_path / "file", tmp_path / "folder" / "file")) is None


@pytest.mark.parametrize(
    "attempt",
    [
        lambda folder: (folder.parent / "outside").read_text(),
        lambda folder: (folder / "link").read_text(),
        lambda folder: os.listdir(folder.parent),
        lambda folder: os.mknod(folder / "device", 0o20600, os.makedev(1, 3)),
        lambda folder: os.mkfifo(folder / "fifo"),
        lambda folder: os.execv(folder / "program", ["program"]),
    ],
)
def test_beneath_its_folder_is_nowhere_else_no_device_and_nothing_to_execute(
    tmp_path: Path, attempt: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "program").write_text("#!/bin/true")
    (folder / "program").chmod(0o755)
    assert isinstance(beneath(folder, partial(attempt, folder)), PermissionError)


@pytest.mark.parametrize("lock", [landlock.deny_everything, partial(landlock.confine_to, "/proc")])
def test_it_leaves_no_descriptor_open(lock: Callable[[], None]) -> None:
    def lowest_free() -> int:
        return os.dup(0)

    assert confined(privileges.renounce, lock, lowest_free).value == confined(lowest_free).value


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errno.ENOSYS, "Linux 5.13"),
        (errno.EOPNOTSUPP, "lsm="),
        (errno.EPERM, "seccomp profile"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_kernel_without_it_is_a_missing_layer_that_says_what_to_do(error: int, advice: str) -> None:
    ending = confined(partial(pretend_missing, CREATE_RULESET, error), partial(outcome, landlock.deny_everything))
    assert isinstance(ending.value, LayerMissing)
    assert advice in str(ending.value)
