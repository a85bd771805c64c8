"""WASI programs that plugins keep in their storage: each run is a process of its own, with a folder of its own.

From the bottom up: `program` (values), `scratch` (the folder), `process` (the process), `runner` (one run from
beginning to end). What happens inside the process is in ``worker/isoplug/worker/wasi.py``.
"""

from __future__ import annotations

from isoplug.supervisor.wasi.program import MAX_ENTRIES, Outcome, Program, WasiLimits, scratch_path
from isoplug.supervisor.wasi.runner import WasiRunner

__all__ = ["MAX_ENTRIES", "Outcome", "Program", "WasiLimits", "WasiRunner", "scratch_path"]
