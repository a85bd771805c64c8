"""read_bounded and write_atomically."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from conftest import WAIT_SECONDS
from isoplug.supervisor import files
from isoplug.supervisor.files import read_bounded, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_file_of_exactly_the_bound_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert read_bounded(tmp_path / "f", 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than 99") as caught:
        read_bounded(tmp_path / "f", 99)
    assert caught.value.errno == errno.EFBIG


def test_a_fifo_that_takes_the_files_place_after_the_check_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "f")
    checks = []

    def lenient_once(status: os.stat_result, path: Path) -> None:
        checks.append(path)
        if len(checks) == 2:
            original(status, path)

    original = files._check_regular
    monkeypatch.setattr(files, "_check_regular", lenient_once)
    with pytest.raises(OSError, match="not a regular file"):
        read_bounded(tmp_path / "f", 10)


def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "f").symlink_to("target")
    write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "f").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, mounted: Callable[..., None]) -> None:
    mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k")
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "f", bytes(200_000))
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_new_file_has_the_mode_asked_for_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"x")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    (tmp_path / "new").chmod(0o640)
    write_atomically(tmp_path / "new", b"y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_reader_never_sees_half_a_file_also_when_the_writer_is_killed(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from isoplug.supervisor.files import write_atomically
path = pathlib.Path(sys.argv[1])
print("ready", flush=True)
for n in range(10**6):
    write_atomically(path, bytes([n % 256]) * 200_000)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    path = tmp_path / "f"
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    end = time.monotonic() + 0.4
    seen = 0
    while (now := time.monotonic()) < end or (seen < 2 and now < end + WAIT_SECONDS):
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 200_000
            assert len(set(data)) == 1
            seen += 1
    writer.send_signal(signal.SIGKILL)
    writer.wait(60)
    writer.stdout.close()
    assert seen > 1
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 200_000
