"""From ``kill -9`` of the process that does the work to the next answer, without anything but calling again.

``ProcessPoolExecutor`` and pebble's pool are broken by it, and loky's executor has to be asked for anew: their figures
contain making another one, which is up to the host.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from isoplug.shared.errors import WorkerCrashed
from isoplug.supervisor.bench.blocks import Candidate, once
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import PAYLOAD, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.bench.others import POOLS, advice
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["measure", "recovery_seconds"]

#: Of isoplug's worker in a block, so that a short run has enough of them for a 99th percentile.
_KILLS = 20
_PLUGIN = plugin_id(0)


def measure(lab: Lab) -> Sequence[Figure]:
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "ground").supervisor())
    candidates = [
        Candidate(Name.RECOVERY, lambda _: [recovery_seconds(supervisor, _PLUGIN) for _ in range(_KILLS)]),
    ]
    for kind in POOLS:
        name = f"kill -9 to next answer, {kind.name}"
        if kind.is_installed():
            candidates.append(Candidate(name, once(lab.cleanup.enter_context(kind()).recovery_seconds)))
        else:
            lab.missing[name] = advice(kind)
    return lab.interleaved(candidates)


def recovery_seconds(supervisor: Supervisor, plugin: str) -> float:
    """Of a plugin with one worker, which is idle. Its restarts are forgotten afterwards: more than a few would
    quarantine it."""
    (killed,) = supervisor.plugins[plugin].status.worker_pids
    begin = time.perf_counter()
    os.kill(killed, signal.SIGKILL)
    while True:
        try:
            supervisor.call(plugin, "echo", PAYLOAD)
        except WorkerCrashed:  # it died with the call
            continue
        answered_at = time.perf_counter()
        if killed not in supervisor.plugins[plugin].status.worker_pids:  # the signal had arrived
            supervisor.reset(plugin)
            return answered_at - begin
