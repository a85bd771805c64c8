"""10 MB from the host into a guest's memory, which loads every byte of it."""

from __future__ import annotations

from collections.abc import Sequence

from isoplug.supervisor.bench.blocks import Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.floor import in_process
from isoplug.supervisor.bench.ground import MODULE, ask, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name

__all__ = ["measure"]

_BYTES = 10_000_000
_LINE = b"Dear diary, today nothing happened, and I wrote it all down here.\n"
_READ = ask("host_read_file", 1, {"path": "big.md"})
_REQUEST = ask("host_request_file", 1, {"key": "big"})


def measure(lab: Lab) -> Sequence[Figure]:
    content = (_LINE * (_BYTES // len(_LINE) + 1))[:_BYTES]
    ground = lay_out(lab.folder / "ground")
    big = ground.journal / "big.md"
    big.write_bytes(content)
    supervisor = lab.cleanup.enter_context(ground.supervisor())
    plugin = in_process(MODULE.read_bytes(), {"host_read_file": big.read_bytes, "host_request_file": lambda: content})

    def isolated(request: bytes) -> None:
        _check(supervisor.call(plugin_id(0), "ask", request, files={"big": content}))

    return lab.interleaved(
        [
            Candidate(Name.READ_IN_PROCESS, timed(lambda: _check(plugin("ask", _READ)))),
            Candidate(Name.READ, timed(lambda: isolated(_READ))),
            Candidate(Name.REQUEST_IN_PROCESS, timed(lambda: _check(plugin("ask", _REQUEST)))),
            Candidate(Name.REQUEST, timed(lambda: isolated(_REQUEST))),
        ]
    )


def _check(answer: bytes) -> None:
    """The guest says how many bytes it has; an error answer is a few."""
    if int(answer) != _BYTES:
        raise AssertionError(f"the guest got {int(answer)} bytes, not {_BYTES}")
