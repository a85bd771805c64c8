"""Native code that harms its own process: its caller gets a typed error in time, the next call is served, nobody else
notices, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from attacks.campaign import Campaign, campaign
from bench import nothing_left_behind
from conftest import is_alive, wait_until
from guests import guest

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Campaign]:
    wasm = guest("probe", guest_cache).read_bytes()
    with campaign(tmp_path_factory.mktemp("harm"), wasm, call_seconds=2.0) as running:
        yield running


@pytest.mark.parametrize(
    "harm",
    [
        "take_all_memory",
        "take_all_processor_time",
        "wait_for_ever",
        "stop_itself",
        "call_without_an_end",
        "fill_standard_error",
        "ignore_its_own_fault",
    ],
)
def test_a_worker_that_harms_itself_costs_its_caller_that_call_and_nobody_anything_else(
    running: Campaign, harm: str
) -> None:
    before = psutil.Process().memory_info().rss
    worker = running.worker_pid(running.attacker)
    verdict = running.run(harm)
    assert verdict.outcome in ("refused", "died", "hung")
    assert running.serves()
    if verdict.outcome != "refused":
        wait_until(lambda: not psutil.pid_exists(worker))
    assert psutil.Process().memory_info().rss - before < 50 * MIB


HOST = """
import os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from attacks.campaign import campaign
folder = Path(sys.argv[3])
folder.mkdir()
with campaign(folder, Path(sys.argv[2]).read_bytes()) as running:
    running.run("outlive_the_supervisor", replaces=False)
    print(running.worker_pid(running.attacker), os.environ["XDG_RUNTIME_DIR"], flush=True)
    threading.Event().wait()
"""


def test_a_worker_that_tries_to_outlive_its_supervisor_dies_with_it(guest_cache: Path, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    arguments = [str(tests), str(guest("probe", guest_cache)), str(tmp_path / "host")]
    with subprocess.Popen([sys.executable, "-c", HOST, *arguments], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pid, runtime_base = host.stdout.readline().split()
        worker = psutil.Process(int(pid))
        family = psutil.Process(host.pid).children(recursive=True)
        assert worker in family
        os.kill(host.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, family)))
        shutil.rmtree(runtime_base)
