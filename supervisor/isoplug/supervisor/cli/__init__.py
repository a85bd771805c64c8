"""The command line. Results go to stdout, everything else to stderr; exit codes are in ``exits``."""

from __future__ import annotations

from isoplug.supervisor.cli.main import main

__all__ = ["main"]
