"""What a call costs, side by side, in one run. Not a test: run it by hand.

    python tests/performance/bench_calls.py [--calls 3000] [--json]

Blocks of each candidate are interleaved, so that a slow moment of the machine hits all of them, and medians are
compared. Absolute times depend on the machine; the ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import extism
import zmq

from guests import guest
from isoplug.supervisor import AllowAll, Supervisor

PAYLOAD = b"x" * 100
HOST_CALL = b'{"function":"host_file_exists","input":"{\\"path\\":\\"a.md\\"}"}'
BLOCKS = 30


def echo(data: bytes) -> bytes:
    return data


def pong(path: str) -> None:
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(path)
    while True:
        socket.send(socket.recv())


def pair(cleanup: ExitStack, folder: Path) -> Callable[[], Any]:
    """A bare PAIR ping-pong with another process."""
    path = f"ipc://{folder}/pong"
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.bind(path)
    process = multiprocessing.get_context("spawn").Process(target=pong, args=(path,), daemon=True)
    process.start()
    cleanup.callback(context.destroy, 0)
    cleanup.callback(process.kill)

    def call() -> bytes:
        socket.send(PAYLOAD)
        return socket.recv()

    return call


def in_process(wasm: bytes) -> extism.Plugin:
    """The same guest in this process, with host functions that answer at once."""
    from isoplug.supervisor.host import HOST_FUNCTIONS

    signature = ([extism.ValType.I64], [extism.ValType.I64])

    def answer(plugin: Any, inputs: Any, outputs: Any, *_: Any) -> None:
        plugin.input_bytes(inputs[0])
        plugin.return_bytes(outputs[0], b"true")

    functions = [
        extism.host_fn(name=name, namespace="extism:host/user", signature=signature)(answer) for name in HOST_FUNCTIONS
    ]
    return extism.Plugin({"wasm": [{"data": wasm}]}, wasi=True, functions=functions)


def measure(candidates: dict[str, Callable[[], Any]], calls: int) -> dict[str, list[float]]:
    """Microseconds of every call, from interleaved blocks."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        for _ in range(50):  # warm up
            call()
    for _ in range(BLOCKS):
        for name, call in candidates.items():
            for _ in range(max(1, calls // BLOCKS)):
                begin = time.perf_counter_ns()
                call()
                samples[name].append((time.perf_counter_ns() - begin) / 1000)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3000, help="calls per candidate")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["EXTISM_CACHE_CONFIG"] = ""
    # Workers have no environment; with this set, calls in this process alone would pay for backtraces of the runtime,
    # and isolation would look cheaper than it is.
    os.environ.pop("RUST_BACKTRACE", None)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="isoplug-bench-")))
        wasm = guest("probe", folder / "guests").read_bytes()
        (folder / "plugins" / "probe").mkdir(parents=True)
        (folder / "plugins" / "probe" / "plugin.wasm").write_bytes(wasm)
        (folder / "journal").mkdir()
        (folder / "journal" / "a.md").write_text("a")
        plugin = in_process(wasm)
        executor = cleanup.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        supervisor = cleanup.enter_context(
            Supervisor(folder / "plugins", folder / "journal", state_dir=folder / "state", permissions=AllowAll())
        )
        samples = measure(
            {
                "bare PAIR ping-pong": pair(cleanup, folder),
                "in-process call": lambda: plugin.call("echo", PAYLOAD),
                "in-process call, one host call": lambda: plugin.call("host", HOST_CALL),
                "isolated call": lambda: supervisor.call("test.probe", "echo", PAYLOAD),
                "isolated call, one host call": lambda: supervisor.call("test.probe", "host", HOST_CALL),
                "ProcessPoolExecutor": lambda: executor.submit(echo, PAYLOAD).result(),
            },
            options.calls,
        )
    report(samples, options.json)


def report(samples: dict[str, list[float]], as_json: bool) -> None:
    medians = {name: statistics.median(times) for name, times in samples.items()}
    floor = medians["bare PAIR ping-pong"] + medians["in-process call"]
    one_host_call = medians["isolated call, one host call"] - medians["isolated call"]
    in_process_host_call = medians["in-process call, one host call"] - medians["in-process call"]
    ratios = {
        "isolated call ÷ (PAIR + in-process)": medians["isolated call"] / floor,
        "isolated call ÷ ProcessPoolExecutor": medians["isolated call"] / medians["ProcessPoolExecutor"],
        "a host call adds ÷ PAIR": (one_host_call - in_process_host_call) / medians["bare PAIR ping-pong"],
    }
    if as_json:
        print(json.dumps({"median_us": medians, "ratios": ratios}, indent=2, ensure_ascii=False))
        return
    print(f"{'':34}{'p10':>9}{'median':>9}{'p90':>9}   µs")
    for name, times in samples.items():
        deciles = statistics.quantiles(times, n=10)
        print(f"{name:34}{deciles[0]:9.1f}{medians[name]:9.1f}{deciles[8]:9.1f}")
    print()
    for name, ratio in ratios.items():
        print(f"{name:38}{ratio:6.2f}")


if __name__ == "__main__":
    main()
