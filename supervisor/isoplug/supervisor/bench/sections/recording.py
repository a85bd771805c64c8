"""What recording calls costs: two supervisors, one of which records."""

from __future__ import annotations

from collections.abc import Sequence

from isoplug.supervisor.bench.blocks import Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import PAYLOAD, ask, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.config import Config
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["measure"]

_PLUGIN = plugin_id(0)
_ASK = ask("host_file_exists", 1, {"path": "a.md"})
_KEPT = 100


def measure(lab: Lab) -> Sequence[Figure]:
    recorded = Config.model_validate({"record": {"enabled": True, "calls": _KEPT}})
    candidates = []
    for words, config in (("not recorded", Config()), ("recorded", recorded)):
        supervisor = lab.cleanup.enter_context(lay_out(lab.folder / words).supervisor(config))
        for _ in range(_KEPT):  # the ring is full from the start, so that clearing it is part of what is measured
            supervisor.call(_PLUGIN, "echo", PAYLOAD)
        candidates += _candidates(supervisor, words)
    return lab.interleaved(candidates)


def _candidates(supervisor: Supervisor, words: str) -> list[Candidate]:
    big = bytes(64_000)
    return [
        Candidate(f"call of 100 bytes, {words}", timed(lambda: supervisor.call(_PLUGIN, "echo", PAYLOAD))),
        Candidate(f"call of 64 KB, {words}", timed(lambda: supervisor.call(_PLUGIN, "echo", big))),
        Candidate(f"call and a host call, {words}", timed(lambda: supervisor.call(_PLUGIN, "ask", _ASK))),
    ]
