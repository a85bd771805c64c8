"""Races against the confined filesystem: somebody swaps names while it works. Real files, real threads, real
kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from conftest import WAIT_SECONDS
from isoplug.shared.errors import ServiceError
from isoplug.supervisor.workspace import WorkspaceFilesystem, WorkspacePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

P = WorkspacePath.parse
SECONDS = 0.5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file").write_bytes(b"SECRET")
    return path


@contextmanager
def meanwhile(step: Callable[[], None]) -> Iterator[None]:
    """Runs ``step`` again and again in a thread; its failures are its own affair."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with suppress(OSError):
                step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    os.rename(one, spare)
    os.rename(other, one)
    os.rename(spare, other)


@pytest.mark.parametrize("what", ["file", "directory", "upper directory"])
def test_a_link_swapped_in_during_calls_is_never_followed(root: Path, outside: Path, what: str) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"inside")
    (outside / "b").mkdir()
    (outside / "b" / "file").write_bytes(b"SECRET")
    victim, target = {
        "file": (root / "a/b/file", outside / "file"),
        "directory": (root / "a/b", outside),
        "upper directory": (root / "a", outside),
    }[what]
    link = victim.with_name("link")
    link.symlink_to(target)
    read, written, refused = 0, 0, 0
    end = time.monotonic() + SECONDS
    descriptors = len(os.listdir("/proc/self/fd"))
    with WorkspaceFilesystem(root) as files, meanwhile(lambda: swap(victim, link)):
        while (now := time.monotonic()) < end or (not (written and refused) and now < end + WAIT_SECONDS):
            try:
                with files.open(P("a/b/file")) as stream:
                    assert stream.read() in (b"inside", b"guest")
                read += 1
                files.write(P("a/b/file"), b"guest")
                written += 1
                files.write(P("a/b/new/file"), b"guest")
                files.delete(P("a/b/new/file"))
            except ServiceError:
                refused += 1
            with suppress(ServiceError):
                files.children(P("a/b"))
    assert (outside / "file").read_bytes() == (outside / "b" / "file").read_bytes() == b"SECRET"
    assert sorted(os.listdir(outside)) == ["b", "file"]
    assert os.listdir(outside / "b") == ["file"]
    assert read
    assert written
    assert refused
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_fifo_swapped_in_hangs_nobody(root: Path) -> None:
    (root / "file").write_bytes(b"inside")
    os.mkfifo(root / "fifo")
    end = time.monotonic() + SECONDS
    with WorkspaceFilesystem(root) as files, meanwhile(lambda: swap(root / "file", root / "fifo")):
        while time.monotonic() < end:
            started = time.monotonic()
            with suppress(ServiceError), files.open(P("file")) as stream:
                assert stream.read() == b"inside"
            assert time.monotonic() - started < WAIT_SECONDS


def test_readers_see_whole_files_and_never_a_missing_one(root: Path) -> None:
    contents = [bytes([letter]) * 50_000 for letter in b"abc"]
    errors: list[str] = []
    with WorkspaceFilesystem(root) as files:
        files.write(P("d/file"), contents[0])

        def write() -> None:
            for data in contents:
                files.write(P("d/file"), data)

        with meanwhile(write), meanwhile(write):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                with files.open(P("d/file")) as stream:
                    if (data := stream.read()) not in contents:
                        errors.append(f"{len(data)} bytes {data[:1]!r}..{data[-1:]!r}")
                assert files.stat(P("d/file")) is not None
        assert errors == []
        assert os.listdir(root / "d") == ["file"]


def test_threads_that_list_the_root_do_not_share_a_position(root: Path) -> None:
    for number in range(200):
        (root / f"{number:03}").write_bytes(b"")
    counts: set[int] = set()
    with WorkspaceFilesystem(root) as files:
        threads = [
            threading.Thread(target=lambda: counts.update(len(files.children(P(""))) for _ in range(30)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == {200}


def test_closing_during_calls_never_lets_one_work_in_another_directory(root: Path, outside: Path) -> None:
    """The root's descriptor number is taken by another directory as soon as it is free."""
    for _ in range(40):
        files = WorkspaceFilesystem(root)
        stop = threading.Event()

        def write(files: WorkspaceFilesystem = files, stop: threading.Event = stop) -> None:
            with suppress(ServiceError):
                while not stop.is_set():
                    files.write(P("guest"), b"x")

        thread = threading.Thread(target=write)
        thread.start()
        files.close()
        taken = [os.open(outside, os.O_RDONLY | os.O_DIRECTORY) for _ in range(8)]
        stop.set()
        thread.join()
        for descriptor in taken:
            os.close(descriptor)
    assert os.listdir(outside) == ["file"]


WRITER = """
import sys
from pathlib import Path
from isoplug.supervisor.workspace import WorkspaceFilesystem, WorkspacePath
files = WorkspaceFilesystem(Path(sys.argv[1]))
path = WorkspacePath(("d", "file"))
print("ready", flush=True)
while True:
    for letter in b"ab":
        files.write(path, bytes([letter]) * 300_000)
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_content(root: Path) -> None:
    whole = [b"a" * 300_000, b"b" * 300_000]
    (root / "d").mkdir()
    (root / "d/file").write_bytes(whole[0])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for turn in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, env=environment)
        assert writer.stdout is not None
        with writer.stdout:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.01 + turn * 0.007)
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        assert (root / "d/file").read_bytes() in whole
        with WorkspaceFilesystem(root) as files:  # whatever was half-written, guests do not see it
            assert [entry.name for entry in files.children(P("d"))] == ["file"]
