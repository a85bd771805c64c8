"""``isoplug`` on the command line, as whole processes, beside one that imports Extism and does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.blocks import Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name

__all__ = ["measure"]

_TIMEOUT_SECONDS = 60


def measure(lab: Lab) -> Sequence[Figure]:
    candidates = [Candidate(Name.IMPORT_EXTISM, timed(partial(_run, [sys.executable, "-c", "import extism"])))]
    script = Path(sys.executable).with_name("isoplug")
    if not script.exists():
        for name in (Name.VERSION, Name.COMMAND):
            lab.missing[name] = f"there is no {script}"
        return lab.interleaved(candidates)
    ground = lay_out(lab.folder / "ground")
    folders = ["--plugins", str(ground.plugins), "--workspace", str(ground.journal), "--state", str(ground.state)]
    call = [str(script), "call", plugin_id(0), "echo", *folders]
    candidates += [
        Candidate(Name.VERSION, timed(partial(_run, [str(script), "--version"]))),
        Candidate(Name.COMMAND, timed(partial(_run, call))),
    ]
    return lab.interleaved(candidates)


def _run(command: list[str]) -> None:
    """In a session of its own, so that Ctrl-C is for this process alone, which then ends it. The run to warm up leaves
    compiled modules, as an installation does, also where somebody has told Python not to."""
    null = subprocess.DEVNULL
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        subprocess.run(
            command,
            env=environment,
            stdin=null,
            stdout=null,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            start_new_session=True,
        )
    except subprocess.SubprocessError as error:  # what it says itself is on stderr
        raise SetupError(f"cannot measure commands: {error}") from error
