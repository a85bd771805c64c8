"""The machine around a supervisor: facts, and what of them will get in the way."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from isoplug.supervisor.config import Config
from isoplug.supervisor.doctor.report import Note

__all__ = ["facts", "notes"]

#: What a supervisor takes for itself, and for a plugin with one worker (counted: template 4, worker 4), in descriptors.
_OWN_FILES, _FILES_PER_PLUGIN = 64, 8
#: What a worker takes of a user's processes: itself and three threads (counted), its template, and the compiler's
#: threads now and then.
_TASKS_PER_PLUGIN = 8
#: A machine that cannot host so many plugins gets a note.
_PLUGINS = 20
#: wasmtime reserves so much address space for an instance, without using it (measured: 17 GB).
_RESERVED_BYTES = 32 << 30


def facts(runtime_folder: Path) -> dict[str, Any]:
    """By name, JSON-serializable; sizes in bytes, None for no bound. ``runtime_folder`` is where sockets lie."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "user": os.geteuid(),
        "user_ids": _mapped_ids(),
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "processes": _limit(resource.RLIMIT_NPROC),
        "address_space_bytes": _limit(resource.RLIMIT_AS),
        "memory_bytes": psutil.virtual_memory().total,
        "cgroup": _cgroup_version(),
        "cgroup_memory_bytes": _cgroup_memory(),
        "runtime_folder": str(runtime_folder),
        "runtime_free_bytes": psutil.disk_usage(str(runtime_folder)).free,
    }


def notes(machine: Mapping[str, Any], config: Config) -> tuple[Note, ...]:
    """What of ``facts`` will get in the way of this configuration, and what in the configuration weakens it. Pure."""
    return tuple(_notes(machine, config))


def _notes(machine: Mapping[str, Any], config: Config) -> Iterator[Note]:
    files = _OWN_FILES + _PLUGINS * _FILES_PER_PLUGIN
    if _is_below(machine["open_files"], files):
        yield Note(
            "open files",
            f"{machine['open_files']} are few for {_PLUGINS} plugins, which take some {files}",
            "raise `ulimit -n` (systemd: LimitNOFILE=)",
        )
    if machine["user"] and _is_below(machine["processes"], _PLUGINS * _TASKS_PER_PLUGIN):
        yield Note(
            "processes",
            f"{machine['processes']} are few for {_PLUGINS} plugins, whose workers have threads",
            "raise `ulimit -u` (systemd: LimitNPROC=)",
        )
    if _is_below(machine["address_space_bytes"], _RESERVED_BYTES):
        yield Note(
            "address space",
            "it is bounded, and every instance reserves gigabytes that it does not use",
            "lift `ulimit -v` (systemd: LimitAS=infinity); limits.process_memory bounds what is used",
        )
    if _is_below(_memory(machine), config.limits.process_memory):
        yield Note(
            "memory",
            f"there is less than limits.process_memory gives one worker ({config.limits.process_memory} bytes)",
            "lower limits.process_memory, or give the machine or the control group more",
        )
    if machine["runtime_free_bytes"] < config.wasi.scratch:
        yield Note(
            "runtime folder",
            f"{machine['runtime_folder']} has less room than wasi.scratch gives one WASI program",
            "make room there, or set XDG_RUNTIME_DIR or TMPDIR to a folder that has it",
        )


def _memory(machine: Mapping[str, Any]) -> int:
    total: int = machine["memory_bytes"]
    group: int | None = machine["cgroup_memory_bytes"]
    return total if group is None else min(total, group)


def _is_below(available: int | None, needed: int) -> bool:
    return available is not None and available < needed


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _mapped_ids() -> int | None:
    """How many user ids this user namespace has; None where /proc does not say."""
    try:
        return sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    except OSError:
        return None


def _cgroup_version() -> int | None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return 2
    return 1 if Path("/sys/fs/cgroup/memory").is_dir() else None


def _cgroup_memory() -> int | None:
    """The tightest bound of this process's control group and those above it; None: no bound, or none that is shown."""
    bounds = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                bounds += _bounds(Path("/sys/fs/cgroup"), path, "memory.max")
            elif "memory" in controllers.split(","):
                bounds += _bounds(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
    return min(bounds, default=None)


def _bounds(mount: Path, path: str, name: str) -> list[int]:
    group = mount / path.lstrip("/")
    bounds = []
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max"; a group above that a container does not see
            bounds.append(int((folder / name).read_text()))
    return [bound for bound in bounds if bound < 1 << 60]  # the first version writes a huge number for none
