"""Folders of one process: private, and swept up after processes that were killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from isoplug.supervisor import SetupError
from isoplug.supervisor.private_folder import PrivateFolder
from unprivileged import UNPRIVILEGED

PREFIX = "isoplug-"


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("r"))


def left_by_a_killed_process(base: str, prefix: str = PREFIX) -> Path:
    before = set(os.listdir(base))
    script = (
        "from isoplug.supervisor.private_folder import PrivateFolder; import os; "
        f"PrivateFolder.make({prefix!r}, [{base!r}]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (litter,) = set(os.listdir(base)) - before
    return Path(base, litter)


def sweep(base: str, prefix: str = PREFIX) -> None:
    PrivateFolder.make(prefix, [base]).close()


def test_the_folder_is_private_and_gone_after_closing(base: str) -> None:
    with PrivateFolder.make(PREFIX, [base]) as path:
        assert path.parent == Path(base)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "folder").mkdir()
    assert not os.listdir(base)


def test_the_first_place_that_can_be_used_is_used(base: str) -> None:
    no_folder = Path(base, "a file")
    no_folder.touch()
    with PrivateFolder.make(PREFIX, [str(no_folder), f"{base}/missing", base]) as path:
        assert path.parent == Path(base)
    with pytest.raises(SetupError, match="no place for a private folder") as caught:
        PrivateFolder.make(PREFIX, [str(no_folder), f"{base}/missing"])
    assert f"{no_folder}: Not a directory; {base}/missing: No such file or directory" in str(caught.value)


def test_where_no_place_is_named_it_is_the_temporary_folder(base: str) -> None:
    script = "from isoplug.supervisor.private_folder import PrivateFolder; print(PrivateFolder.make('isoplug-').path)"
    environment = {**os.environ, "TMPDIR": base}
    made = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert Path(made.stdout.strip()).parent == Path(base)


def test_the_next_one_removes_what_a_killed_process_left_with_all_that_is_in_it(base: str) -> None:
    litter = left_by_a_killed_process(base)
    (litter / "folder" / "in it").mkdir(parents=True)
    (litter / "folder" / "in it" / "file").touch()
    sweep(base)
    assert not os.listdir(base)


def test_a_folder_whose_owner_lives_is_not_touched(base: str) -> None:
    with PrivateFolder.make(PREFIX, [base]) as living:
        (living / "file").touch()
        sweep(base)
        assert (living / "file").exists()


def test_a_folder_without_a_lock_is_just_being_made_and_not_touched(base: str) -> None:
    being_made = Path(base, f"{PREFIX}abcdefgh")
    being_made.mkdir()
    sweep(base)
    assert being_made.is_dir()


def test_folders_of_another_kind_are_not_touched(base: str) -> None:
    kinds = [left_by_a_killed_process(base, prefix) for prefix in ("isoplug-", "isoplug-bench-", "isoplug.bench-")]
    sweep(base, "isoplug-")
    assert [path.exists() for path in kinds] == [False, True, True]
    sweep(base, "isoplug-bench-")
    assert [path.exists() for path in kinds] == [False, False, True]


def test_a_symbolic_link_of_that_name_is_not_touched_nor_what_it_leads_to(base: str) -> None:
    litter = left_by_a_killed_process(base)
    elsewhere = litter.rename(Path(base, "elsewhere"))
    litter.symlink_to(elsewhere)
    sweep(base)
    assert litter.is_symlink()
    assert sorted(os.listdir(elsewhere)) == ["lock"]


def test_a_folder_of_another_user_is_not_touched(base: str, needs_root: None) -> None:
    litter = left_by_a_killed_process(base)
    os.chown(litter, UNPRIVILEGED, UNPRIVILEGED)
    sweep(base)
    assert sorted(os.listdir(litter)) == ["lock"]


def test_a_folder_is_not_taken_for_litter_before_it_is_locked(base: str) -> None:
    """Its maker is stopped where it is about to take the lock, by Python's own report of that."""
    script = f"""import sys

def stop(event, arguments):
    if event == "fcntl.flock":
        print("about to lock", flush=True)
        sys.stdin.readline()

sys.addaudithook(stop)
from isoplug.supervisor.private_folder import PrivateFolder
with PrivateFolder.make({PREFIX!r}, [{base!r}]) as path:
    print(sorted(file.name for file in path.iterdir()))"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "about to lock\n"
        sweep(base)
        said, _ = maker.communicate("go on\n", timeout=60)
    assert said == "['lock']\n"
