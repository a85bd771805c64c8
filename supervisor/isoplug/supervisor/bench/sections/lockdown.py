"""What locking workers down costs: two supervisors, one without."""

from __future__ import annotations

from collections.abc import Sequence

from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor.bench.blocks import Candidate, once, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import PAYLOAD, ask, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.sections.recovery import recovery_seconds
from isoplug.supervisor.config import Config
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["measure"]

_PLUGIN = plugin_id(0)
_ASK = ask("host_file_exists", 1, {"path": "a.md"})


def measure(lab: Lab) -> Sequence[Figure]:
    candidates = []
    for words, mode in (("not locked", Lockdown.OFF), ("locked", Lockdown.BEST_EFFORT)):
        ground = lay_out(lab.folder / mode)
        supervisor = lab.cleanup.enter_context(ground.supervisor(Config(lockdown=mode)))
        candidates += _candidates(supervisor, words)
    return lab.interleaved(candidates)


def _candidates(supervisor: Supervisor, words: str) -> list[Candidate]:
    return [
        Candidate(f"call, {words}", timed(lambda: supervisor.call(_PLUGIN, "echo", PAYLOAD))),
        Candidate(f"call with a host call, {words}", timed(lambda: supervisor.call(_PLUGIN, "ask", _ASK))),
        Candidate(f"kill -9 to next answer, {words}", once(lambda: recovery_seconds(supervisor, _PLUGIN))),
    ]
