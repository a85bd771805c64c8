"""Modules that cost a compiler more than they may: each costs its own plugin, within its time, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bench import PROBE, Bench, nothing_left_behind, open_bench
from compile_bombs import BOMBS
from faults import zygotes
from isoplug.supervisor import CallTimeout, LoadError, PluginError, ResourceLimitExceeded, WorkerCrashed
from isoplug.supervisor.config import Calls, Config, Limits

MIB = 1 << 20
START_SECONDS = 6.0
#: Far above what ending takes on a busy machine, far below what compiling these would.
SOON_SECONDS = 30.0
#: What ends with a start that took too long, or took too much; which of them, the number of cores decides as well.
ENDS = (CallTimeout, WorkerCrashed, LoadError, ResourceLimitExceeded)
#: So large that compiling it meets a limit below on most machines. Where it does not, there is no manifest in it.
WORST = {
    "locals_through_branches": 10.0,
    "many_types": 5.0,
    "many_functions": 25.0,
    "deep_blocks": 10.0,
    "deep_ifs": 10.0,
    "deep_expression": 20.0,
    "long_function": 10.0,
    "long_initial_values": 10.0,
}
REST = {name: 2.0 for name in BOMBS if name not in WORST}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    config = Config(
        calls=Calls(start_timeout=START_SECONDS),
        limits=Limits(wasm_memory=64 * MIB, process_memory=256 * MIB, wasm_module=16 * MIB),
    )
    with open_bench(tmp_path_factory.mktemp("bombs"), guest_cache, arguments={"config": config}) as opened:
        yield opened


def outcome(bench: Bench, name: str, wasm: bytes) -> PluginError | None:
    """How loading it ends; it is unloaded again."""
    path = bench.plugins.add_bytes(f"bomb-{name}", wasm)
    try:
        bench.supervisor.unload(bench.supervisor.load_plugin(path).id)
    except PluginError as error:
        return error
    finally:
        path.unlink()
        path.parent.rmdir()
    return None


def private_bytes() -> int:
    return int(psutil.Process().memory_full_info().uss)


def others(bench: Bench) -> set[int]:
    """The processes that have nothing to do with the module."""
    return {*zygotes(), *bench.supervisor.plugins[PROBE].status.worker_pids}


@pytest.mark.parametrize(("name", "scale"), WORST.items())
def test_a_module_that_is_hard_to_compile_ends_in_time_and_costs_its_own_plugin_only(
    name: str, scale: float, bench: Bench
) -> None:
    wasm = BOMBS[name](scale)
    pids, before = others(bench), private_bytes()
    began = time.monotonic()
    error = outcome(bench, name, wasm)
    assert time.monotonic() - began < START_SECONDS + SOON_SECONDS
    assert isinstance(error, ENDS)
    assert private_bytes() - before < 4 * len(wasm) + 64 * MIB  # a compiler takes all that it may: 256 MiB
    assert bench.answers()
    assert others(bench) == pids  # nobody else was replaced


def test_while_one_module_is_compiled_for_ever_others_answer(bench: Bench) -> None:
    wasm = BOMBS["locals_through_branches"](10.0)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(outcome, bench, "slow", wasm)
        answers = 0
        while not loading.done():
            assert bench.supervisor.call(PROBE, "echo", b"x", timeout=START_SECONDS / 2) == b"x"
            answers += 1
        assert isinstance(loading.result(), ENDS)
    assert answers > 0


@pytest.mark.parametrize(("name", "scale"), REST.items())
def test_large_modules_of_every_kind_are_compiled_or_refused(name: str, scale: float, bench: Bench) -> None:
    error = outcome(bench, name, BOMBS[name](scale))
    assert isinstance(error, ENDS)
    assert bench.answers()
