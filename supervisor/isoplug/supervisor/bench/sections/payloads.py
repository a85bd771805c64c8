"""One call that sends bytes and gets them back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from isoplug.supervisor.bench.blocks import Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.floor import in_process
from isoplug.supervisor.bench.ground import MODULE, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.others import ProcessPool

__all__ = ["measure"]

_SIZES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000, "10 MB": 10_000_000}


def measure(lab: Lab) -> Sequence[Figure]:
    plugin = in_process(MODULE.read_bytes(), {})
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "ground").supervisor())
    pool = lab.cleanup.enter_context(ProcessPool())
    candidates = []
    for size, count in _SIZES.items():
        data = b"x" * count
        candidates += [
            Candidate(f"{size}, in-process", timed(partial(plugin, "echo", data))),
            Candidate(f"{size}, isoplug", timed(partial(supervisor.call, plugin_id(0), "echo", data))),
            Candidate(f"{size}, ProcessPoolExecutor", timed(partial(pool.echo, data))),
        ]
    return lab.interleaved(candidates)
