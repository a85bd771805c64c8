"""The key's file: who may read it, what is in it, and how one comes to be."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoplug.shared.errors import SetupError
from isoplug.supervisor.secrets import KeyFile

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def test_no_file_is_no_key_and_looking_makes_none(path: Path) -> None:
    assert KeyFile(path).load() is None
    assert not path.exists()


def test_a_new_key_is_for_its_owner_only_whatever_the_umask_and_leaves_nothing_beside_it(path: Path) -> None:
    for umask in (0, 0o777):
        old = os.umask(umask)
        try:
            key = KeyFile(path).make()
        finally:
            os.umask(old)
        assert len(key) == 32
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        assert KeyFile(path).load() == key
        path.unlink()


def test_a_key_that_is_there_is_never_replaced(path: Path) -> None:
    write(path, TEXT)
    assert KeyFile(path).make() == KEY
    assert path.read_bytes() == TEXT
    assert list(path.parent.iterdir()) == [path]


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    assert len({KeyFile(tmp_path / str(number)).make() for number in range(20)}) == 20


def test_a_key_written_by_a_person_may_have_white_space_around_it(path: Path) -> None:
    write(path, b"\n " + TEXT + b" \r\n", 0o400)
    assert KeyFile(path).load() == KEY


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", TEXT[:-5], TEXT + b"AAAA", KEY, b"hunter2", TEXT * 2, base64.b64encode(KEY[:31]), b"A" * 100_000],
    ids=len,
)
def test_what_is_no_key_is_refused_without_being_quoted_and_left_alone(path: Path, content: bytes) -> None:
    write(path, content)
    for use in (KeyFile(path).load, KeyFile(path).make):
        with pytest.raises(SetupError, match=r"holds no key.*base64 of 32 bytes.*urandom") as caught:
            use()
        assert str(path) in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert TEXT.decode()[:20] not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644, 0o610])
def test_a_key_that_others_may_touch_is_refused_with_the_command_to_run(path: Path, mode: int) -> None:
    write(path, TEXT, mode)
    with pytest.raises(SetupError, match=rf"open to other users \(mode {mode:04o}\).*chmod 600"):
        KeyFile(path).load()


def test_a_key_of_another_user_is_refused(path: Path, needs_root: None) -> None:
    write(path, TEXT)
    os.chown(path, 12345, 12345)
    with pytest.raises(SetupError, match="belongs to user 12345"):
        KeyFile(path).load()


def symlink(path: Path) -> None:
    write(path.with_name("elsewhere"), TEXT)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "make",
    [symlink, lambda path: path.symlink_to("nowhere"), Path.mkdir, os.mkfifo],
    ids=["link", "dangling link", "folder", "fifo"],
)
def test_what_is_not_the_file_itself_is_refused_at_once(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    for use in (KeyFile(path).load, KeyFile(path).make):
        with pytest.raises(SetupError, match="not a regular file"):
            use()


def test_a_folder_that_is_missing_or_cannot_be_written_is_a_set_up_error(tmp_path: Path) -> None:
    missing = KeyFile(tmp_path / "missing" / "key")
    assert missing.load() is None
    for file in (missing, KeyFile(Path("/proc/self/key")), KeyFile(tmp_path / "\0")):
        with pytest.raises(SetupError, match=r"cannot (make|read) the key file"):
            file.make()
    assert not (tmp_path / "missing").exists()


MAKER = """
import pathlib, sys
from isoplug.supervisor.secrets import KeyFile
print("ready", flush=True)
sys.stdin.readline()
print(KeyFile(pathlib.Path(sys.argv[1])).make().hex(), flush=True)
"""


def test_processes_that_make_the_key_at_once_get_one_key(path: Path) -> None:
    for _ in range(2):
        makers = [
            subprocess.Popen(
                [sys.executable, "-c", MAKER, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for _ in range(3)
        ]
        for maker in makers:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "ready\n"
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write("go\n")
            maker.stdin.flush()
        keys = {maker.communicate(timeout=30)[0].strip() for maker in makers}
        loaded = KeyFile(path).load()
        assert loaded is not None
        assert keys == {loaded.hex()}
        assert list(path.parent.iterdir()) == [path]
        path.unlink()
