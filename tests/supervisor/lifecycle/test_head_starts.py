"""Zygotes that boot before there is a supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conftest import PluginFolder, is_alive, wait_until
from isoplug.supervisor import SetupError, Supervisor
from isoplug.supervisor.head_start import HeadStart

PROBE = "test.probe"

Supervise = Callable[..., Supervisor]


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if is_alive(child)]


def test_a_supervisor_forks_its_workers_from_the_zygote_of_its_head_start(
    plugins: PluginFolder, supervise: Supervise
) -> None:
    plugins.add()
    with HeadStart() as head_start:
        (zygote,) = children()
        with supervise(head_start=head_start) as supervisor:
            assert supervisor.call(PROBE, "echo", b"x") == b"x"
            assert children() == [zygote]
        assert children() == []


def test_a_head_start_that_no_supervisor_takes_leaves_nothing() -> None:
    with HeadStart() as head_start:
        assert len(children()) == 1
    assert not head_start.runtime_folder.exists()
    with pytest.raises(RuntimeError), HeadStart():
        raise RuntimeError("before there was a supervisor")
    assert children() == []


def test_a_supervisor_that_cannot_be_made_leaves_its_head_start_nothing_but_to_end(supervise: Supervise) -> None:
    with HeadStart() as head_start, pytest.raises(SetupError, match="not a folder"):
        supervise(plugins_dir="/nowhere", head_start=head_start)
    assert children() == []


def test_a_supervisor_that_starts_no_worker_ends_the_zygote_that_it_has_taken(supervise: Supervise) -> None:
    with HeadStart() as head_start:
        supervise(head_start=head_start).close()
        assert children() == []


def test_a_zygote_that_dies_before_it_is_needed_is_replaced(plugins: PluginFolder, supervise: Supervise) -> None:
    plugins.add()
    with HeadStart() as head_start:
        (zygote,) = children()
        os.kill(zygote, signal.SIGKILL)
        with supervise(head_start=head_start) as supervisor:
            assert supervisor.call(PROBE, "echo", b"x") == b"x"
            wait_until(lambda: zygote not in children(), "it to be dead")


def test_a_head_start_is_for_one_supervisor(supervise: Supervise) -> None:
    with HeadStart() as head_start:
        supervise(head_start=head_start).close()
        with pytest.raises(SetupError, match="make one for each"):
            supervise(head_start=head_start)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_while_it_imports_leaves_nothing(number: int, plugins: PluginFolder) -> None:
    """The fixture around each test looks for folders; its zygote is then about to boot. On a busy machine the signal
    may come in the middle of the call, but never after it: it has no end."""
    plugins.add()
    command = [Path(sys.executable).with_name("isoplug"), "call", PROBE, "spin", "--plugins", plugins.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        (zygote,) = wait_until(psutil.Process(process.pid).children, "the zygote")
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode != 0
    assert (out, b"Traceback" in err) == (b"", False)
    wait_until(lambda: not is_alive(zygote), "the zygote to end")
