"""Reading a module that others write to, and keeping what was read."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from conftest import WAIT_SECONDS
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import LoadError, SupervisorClosed
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.plugins.module import Module, Stamp, read_stable
from isoplug.supervisor.pool import Launcher


def test_a_file_that_grows_while_it_is_read_is_never_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "plugin.wasm"
    path.write_bytes(bytes(4 << 20))
    stop = threading.Event()

    def write() -> None:
        with open(path, "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    read = refused = 0
    give_up_at = time.monotonic() + WAIT_SECONDS
    try:
        while read < 50 or (not refused and time.monotonic() < give_up_at):
            read += 1
            try:
                data, stamp = read_stable(path, 1 << 30)
            except OSError as error:
                assert error.errno == errno.EBUSY  # noqa: PT017  which of the two happens is the scheduler's choice
                refused += 1
            else:
                assert stamp.size == len(data)
    finally:
        stop.set()
        writer.join()
    assert refused
    assert len(read_stable(path, 1 << 30)[0]) == path.stat().st_size


def test_a_stamp_changes_with_every_way_to_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plugin.wasm"
    path.write_bytes(b"one")
    stamps = [Stamp.of(path)]
    path.write_bytes(b"three")
    stamps.append(Stamp.of(path))
    (tmp_path / "new").write_bytes(b"three")
    os.replace(tmp_path / "new", path)
    stamps.append(Stamp.of(path))
    path.unlink()
    stamps.append(Stamp.of(path))
    assert stamps[-1] is None
    assert len(set(stamps)) == 4


def test_what_was_kept_is_read_again_until_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stamp = Stamp.of(tmp_path / "file")
    assert stamp is not None
    launcher = Launcher(tmp_path, Lockdown.OFF, [], [])
    sha256 = hashlib.sha256(b"\0asm...").hexdigest()
    module = Module(sha256, tmp_path / "file", stamp, tmp_path, launcher, "a.b", Limits())
    module.keep(b"\0asm...")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert [module.read("a.b"), module.read("a.b")] == [b"\0asm..."] * 2
    module.close()
    module.close()
    with pytest.raises(SupervisorClosed):
        module.read("a.b")
    with pytest.raises(SupervisorClosed):
        launcher.launch(module.template, Deadline.after(10.0))
    launcher.close()


def test_a_copy_may_wait_until_it_is_needed_and_is_only_made_of_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"other")
    stamp = Stamp.of(path)
    assert stamp is not None
    launcher = Launcher(tmp_path, Lockdown.OFF, [], [])
    sha256 = hashlib.sha256(b"\0asm...").hexdigest()
    module = Module(sha256, path, stamp, tmp_path, launcher, "a.b", Limits())
    with pytest.raises(LoadError, match="has changed since"):
        module.read("a.b")
    path.write_bytes(b"\0asm...")
    assert module.read("a.b") == b"\0asm..."
    path.unlink()
    assert module.read("a.b") == b"\0asm..."
    module.close()
    launcher.close()


def test_a_file_that_is_gone_before_it_was_copied_is_a_load_error(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, Lockdown.OFF, [], [])
    module = Module("0" * 64, tmp_path / "gone", Stamp(0, 0, 0, 0, 0), tmp_path, launcher, "a.b", Limits())
    with pytest.raises(LoadError, match="cannot be read any more"):
        module.read("a.b")
    module.close()
    launcher.close()
