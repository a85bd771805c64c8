"""A template that has been taken over by the module that it compiles: its own plugin fails with a typed error by the
deadline, others start meanwhile, and nothing of it is left. ``hostile_template`` has the attacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import hostile_template
from bench import nothing_left_behind, peak_growth_bytes
from conftest import wait_until
from hostile_template import ATTACKS, MARK
from isoplug.shared.errors import LoadError, PluginError
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.launcher import Launcher

MIB = 1 << 20
EMPTY_MODULE = b"\0asm\1\0\0\0"
LIMITS = Limits(cpu_total=10.0)
#: Nothing ends these before the deadline: the one is within the rules, and the worker that the other has forked sleeps.
PATIENCE_SECONDS = {"says_nothing": 2.0, "reports_the_end_of_one_that_lives": 2.0}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def launcher(runtime_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    folder = runtime_base / "templates"
    folder.mkdir(mode=0o700)
    hostile_template.zygotes_run_hostile_code(monkeypatch)
    launcher = Launcher(folder, Lockdown.BEST_EFFORT, [], [])
    yield launcher
    launcher.close()
    wait_until(lambda: not folder.exists(), "the runtime folder's end")


def launch(launcher: Launcher, module: bytes, seconds: float = 20.0) -> None:
    template = launcher.template("test.hostile", lambda: module, LIMITS)
    try:
        launcher.launch(template, Deadline.after(seconds)).end()
    finally:
        template.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_that_lies_ends_in_a_typed_error_and_harms_nobody_else(launcher: Launcher, attack: str) -> None:
    launch(launcher, EMPTY_MODULE)
    descriptors = len(os.listdir("/proc/self/fd"))

    def attacked() -> None:
        with pytest.raises(PluginError):
            launch(launcher, MARK + attack.encode(), PATIENCE_SECONDS.get(attack, 20.0))

    assert peak_growth_bytes(attacked) < 64 * MIB
    launch(launcher, EMPTY_MODULE)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "closed descriptors")


@pytest.mark.parametrize("attack", ["forks_in_secret", "forks_in_secret_and_dies"])
def test_what_a_template_has_forked_in_secret_ends_with_the_supervisor(launcher: Launcher, attack: str) -> None:
    with pytest.raises(LoadError) as failure:
        launch(launcher, MARK + attack.encode())
    pids = [int(pid) for pid in re.findall(r"\d+", str(failure.value).partition("secret: ")[2])]
    assert len(pids) == 3
    launcher.close()
    wait_until(lambda: not any(map(is_alive, pids)), "the ends of those that it has forked")


def is_alive(pid: int) -> bool:
    """Their parent is dead, and init may be slow to reap them."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
