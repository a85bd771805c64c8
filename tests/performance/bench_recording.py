"""What recording costs a call: two supervisors over the same plugin, one of which records, called in turn.

    python tests/performance/bench_recording.py [CALLS]

Prints the tenth percentile of each in microseconds, since a busy machine makes medians useless, and how much more a
recorded call takes: for an echo, for a call that makes one host call, and for one that returns 64 KiB. The ring is full
from the start, so its clearing is part of it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from guests import guest
from isoplug.supervisor import Config, Supervisor

PROBE = "test.probe"
_ASK = b'{"calls": [{"function": "host_get_timestamp", "input": ""}]}'
CALLS: dict[str, Callable[[Supervisor], object]] = {
    "echo": lambda one: one.call(PROBE, "echo", b"hello"),
    "one host call": lambda one: one.call(PROBE, "host_many", _ASK),
    "64 KiB": lambda one: one.call(PROBE, "echo", bytes(65536)),
}


def micros(call: Callable[[Supervisor], object], supervisor: Supervisor) -> float:
    begin = time.perf_counter()
    call(supervisor)
    return (time.perf_counter() - begin) * 1e6


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="iso-bench-") as base:
        plugin = Path(base, "plugins", "probe")
        plugin.mkdir(parents=True)
        cache = Path(base, "guests")
        cache.mkdir()
        (plugin / "plugin.wasm").write_bytes(guest("probe", cache).read_bytes())
        recording = Config.model_validate({"record": {"enabled": True}})
        with (
            Supervisor(plugin.parent, state_dir=Path(base, "a")) as plain,
            Supervisor(plugin.parent, state_dir=Path(base, "b"), config=recording) as recorded,
        ):
            for _ in range(1100):
                recorded.call(PROBE, "echo", b"")
            for name, call in CALLS.items():
                pairs = [(micros(call, plain), micros(call, recorded)) for _ in range(count)]
                without, with_it = (statistics.quantiles(times, n=10)[0] for times in zip(*pairs, strict=True))
                share = with_it / without
                print(f"{name:14} without {without:7.0f} µs, recorded {with_it:7.0f} µs, ratio {share:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
