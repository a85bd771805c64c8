"""Where something was measured: nobody can compare figures without."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

from isoplug.shared.version import VERSION
from isoplug.supervisor.bench.ground import lay_out

__all__ = ["facts"]

_PACKAGES: Final = ("extism", "extism-sys", "pyzmq", "pebble", "loky", "ray")


def facts(folder: Path) -> dict[str, Any]:
    """By name, JSON-serializable. Starts a plugin in ``folder`` to see which layers of the lock-down it gets."""
    with lay_out(folder).supervisor() as supervisor:
        protection = supervisor.protection
    assert protection is not None
    return {
        "isoplug": VERSION,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load": list(os.getloadavg()),
        "user": os.geteuid(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "lockdown": {
            "applied": [str(layer) for layer in protection.applied],
            "missing": {str(layer): reason for layer, reason in protection.missing.items()},
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")  # aarch64 has no name there


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
