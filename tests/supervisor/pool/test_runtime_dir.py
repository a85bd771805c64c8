"""Runtime folders: private, and swept up after supervisors that were killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from isoplug.supervisor import SetupError
from isoplug.supervisor.pool.runtime_dir import RuntimeDir


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("r"))


def test_the_folder_is_private_and_gone_after_closing(base: str) -> None:
    runtime_dir = RuntimeDir.make([base])
    assert stat.S_IMODE(os.stat(runtime_dir.path).st_mode) == 0o700
    runtime_dir.close()
    assert not os.listdir(base)


def test_the_first_place_that_can_be_used_is_used(base: str) -> None:
    no_folder = Path(base, "a file")
    no_folder.touch()
    runtime_dir = RuntimeDir.make([str(no_folder), f"{base}/missing", base])
    assert runtime_dir.path.parent == Path(base)
    runtime_dir.close()
    with pytest.raises(SetupError, match="no place for a runtime folder"):
        RuntimeDir.make([str(no_folder), f"{base}/missing"])


def test_the_next_start_removes_what_a_killed_supervisor_left_and_nothing_else(base: str) -> None:
    killed = f"from isoplug.supervisor.pool.runtime_dir import RuntimeDir; import os; RuntimeDir.make([{base!r}]); "
    subprocess.run([sys.executable, "-c", killed + "os.kill(os.getpid(), 9)"], check=False)
    (litter,) = os.listdir(base)
    Path(base, litter, "w0").touch()
    living = RuntimeDir.make([base])
    assert os.listdir(base) == [living.path.name]
    being_made = Path(base, "isoplug-abcdefgh")
    being_made.mkdir()
    others = Path(base, "isoplug-demo-abc")
    others.mkdir()
    second = RuntimeDir.make([base])
    assert living.path.is_dir()
    assert being_made.is_dir()
    assert others.is_dir()
    second.close()
    living.close()
