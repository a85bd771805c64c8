"""Noticing changes in a folder: after they have come to rest, and whatever happens to the folder itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import wait_until
from isoplug.supervisor.files import write_atomically
from isoplug.supervisor.service import watch
from isoplug.supervisor.service.watch import FolderWatch


class Changes:
    def __init__(self, folder: Path, *, is_polling: bool = False) -> None:
        self.count = 0
        self._folder, self._is_polling = folder, is_polling
        self._watch = FolderWatch(folder, self._add, is_polling=is_polling)
        self._watch.start()
        self.stop = self._watch.stop

    def _add(self) -> None:
        self.count += 1

    def wait_for_next(self, touch: Callable[[], object], pause_seconds: float = 5.0) -> None:
        """``touch`` as soon as the folder seems to be watched, which it is not at once, and again when that was too
        early; a change that follows within the pause is that of a folder which has not come to rest."""
        wait_until(lambda: self._is_polling or watches() >= sum(1 for _ in os.walk(self._folder)), "the watches")
        before = self.count

        def has_noticed() -> bool:
            touch()
            give_up_at = time.monotonic() + pause_seconds
            while self.count == before and time.monotonic() < give_up_at:
                time.sleep(0.01)
            return self.count > before

        wait_until(has_noticed, "the change to be noticed")


def watches() -> int:
    """How many of the kernel's this process has."""
    found = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += info.read_text().count("inotify wd:")
    return found


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[Callable[..., Changes]]:
    started: list[Changes] = []

    def start(folder: Path, **options: bool) -> Changes:
        started.append(Changes(folder, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    (folder / "a").mkdir(parents=True)
    return folder


def test_a_change_is_noticed_after_the_folder_has_come_to_rest(folder: Path, changes: Callable[..., Changes]) -> None:
    seen = changes(folder)
    seen.wait_for_next(lambda: (folder / "a" / "plugin.wasm").write_bytes(os.urandom(10)))
    before = seen.count
    writing = threading.Event()

    def copy_slowly() -> None:
        with (folder / "a" / "plugin.wasm").open("wb") as module:
            while not writing.wait(0.05):
                module.write(b"x")
                module.flush()

    copier = threading.Thread(target=copy_slowly)
    copier.start()
    try:
        time.sleep(1.5)  # more than twice what counts as rest
        assert seen.count == before
    finally:
        writing.set()
        copier.join()
    wait_until(lambda: seen.count == before + 1)


def test_what_isoplug_itself_writes_is_no_change(folder: Path, changes: Callable[..., Changes]) -> None:
    seen = changes(folder)
    seen.wait_for_next(lambda: (folder / "b").write_bytes(b""))
    before = seen.count
    write_atomically(folder / "a" / "manifest.json", b"{}")
    time.sleep(1.6)  # twice what noticing takes
    assert seen.count == before
    write_atomically(folder / "a" / "config.json", b"{}")
    wait_until(lambda: seen.count > before)


def test_new_folders_are_watched_too(folder: Path, changes: Callable[..., Changes]) -> None:
    seen = changes(folder)
    seen.wait_for_next(lambda: (folder / "b").write_bytes(b""))
    before = seen.count
    (folder / "new").mkdir()
    wait_until(lambda: seen.count > before)
    (folder / "new" / "plugin.wasm").write_bytes(b"x")
    wait_until(lambda: seen.count > before + 1)


def test_a_folder_that_vanishes_and_comes_back_is_watched_again(
    folder: Path, changes: Callable[..., Changes], caplog: pytest.LogCaptureFixture
) -> None:
    seen = changes(folder)
    seen.wait_for_next(lambda: (folder / "b").write_bytes(b""))
    before = seen.count
    folder.rename(folder.with_name("away"))
    wait_until(lambda: "watch.folder_is_gone" in caplog.text)
    folder.mkdir()
    wait_until(lambda: seen.count > before, "the new folder to be noticed")
    seen.wait_for_next(lambda: (folder / "c").write_bytes(b""))


def test_a_link_that_is_switched_to_another_folder_is_a_change(tmp_path: Path, changes: Callable[..., Changes]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("one")
    seen = changes(link)
    seen.wait_for_next(lambda: (tmp_path / "one" / "x").write_bytes(b""))
    before = seen.count
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    wait_until(lambda: seen.count > before, "the switch to be noticed")
    seen.wait_for_next(lambda: (tmp_path / "two" / "x").write_bytes(b""))


WITHOUT_WATCHES = """
import sys, threading
from pathlib import Path
from isoplug.supervisor.observe.logs import to_stderr
from isoplug.supervisor.service import watch as module
from isoplug.supervisor.service.watch import FolderWatch

module._POLL_MS, module._QUIET_POLLING_MS = 200, 500
Path(sys.argv[2]).write_text("0")  # of this name space of users, which has a kernel's limits of its own
to_stderr("INFO")
is_changed = threading.Event()
watch = FolderWatch(Path(sys.argv[1]), is_changed.set, is_polling=False)
watch.start()
assert is_changed.wait(20)  # perhaps: it begins anew
is_changed.clear()
(Path(sys.argv[1]) / "a" / "plugin.wasm").write_text("x")
assert is_changed.wait(20)
watch.stop()
"""


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_a_kernel_without_watches_is_no_reason_to_miss_changes(folder: Path, limit: str) -> None:
    alone = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode != 0:
        pytest.skip("no name space of users to be had here")
    command = [*alone, sys.executable, "-c", WITHOUT_WATCHES, folder, f"/proc/sys/user/{limit}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "WARNING watch.polling_instead" in result.stderr


def test_polling_notices_changes(
    folder: Path, changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_POLL_MS", 200)
    monkeypatch.setattr(watch, "_QUIET_POLLING_MS", 500)
    seen = changes(folder, is_polling=True)
    time.sleep(1.0)  # most of the time the first look, which changes are compared with, is over by now
    seen.wait_for_next(lambda: (folder / "a" / "plugin.wasm").write_bytes(os.urandom(10)), pause_seconds=15.0)
