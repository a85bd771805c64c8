"""What the kernel says about one process, in /proc: read by another process, whatever the one itself may claim."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sight", "Thread", "look_at", "parse_limits", "parse_thread"]

_UNREADABLE = None
#: proc(5), /proc/[pid]/limits: the lines that matter here, and their names in reports.
_LIMITS = {
    "Max data size": "data_bytes",
    "Max open files": "open_files",
    "Max processes": "processes",
    "Max cpu time": "cpu_seconds",
    "Max core file size": "core_bytes",
}


@dataclass(frozen=True, slots=True)
class Thread:
    """Of /proc/[pid]/task/[tid]/status: credentials, capabilities and filters belong to a thread."""

    uids: frozenset[int]
    gids: frozenset[int]
    groups: frozenset[int]
    capabilities: Mapping[str, int]  # CapInh, CapPrm, CapEff, CapBnd, CapAmb
    has_no_new_privileges: bool
    seccomp_mode: int
    seccomp_filters: int | None  # None: a kernel before 5.10 does not count them


@dataclass(frozen=True, slots=True)
class Sight:
    """One process. None stands for what the kernel does not show to this user: descriptors and root folder of an
    undumpable process are only for root."""

    pid: int
    threads: tuple[Thread, ...]
    limits: Mapping[str, int | None]  # soft ones; None: no bound
    owner: int | None  # of /proc/[pid]/status: not the process's own user when nobody may look into it
    root: str | None
    descriptors: tuple[str, ...] | None
    environment: tuple[str, ...] | None


def look_at(pid: int) -> Sight:
    """Raises OSError when there is no such process, or this user cannot see it at all (mount option ``hidepid``)."""
    folder = Path("/proc", str(pid))
    return Sight(
        pid,
        _threads(folder),
        parse_limits((folder / "limits").read_text()),
        (folder / "status").stat().st_uid,
        _root(folder),
        _descriptors(folder),
        _environment(folder),
    )


def _threads(folder: Path) -> tuple[Thread, ...]:
    threads = []
    for task in sorted((folder / "task").iterdir()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended a moment ago
            threads.append(parse_thread((task / "status").read_text()))
    return tuple(threads)


def parse_thread(status: str) -> Thread:
    """Raises KeyError, ValueError for what is no status of a thread."""
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}
    filters = fields.get("Seccomp_filters")
    return Thread(
        frozenset(map(int, fields["Uid"].split())),
        frozenset(map(int, fields["Gid"].split())),
        frozenset(map(int, fields["Groups"].split())),
        {name: int(value, 16) for name, value in fields.items() if name.startswith("Cap")},
        fields["NoNewPrivs"] == "1",
        int(fields["Seccomp"]),
        None if filters is None else int(filters),
    )


def parse_limits(text: str) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for line in text.splitlines():
        for heading, name in _LIMITS.items():
            if line.startswith(heading):
                soft = line.removeprefix(heading).split()[0]
                limits[name] = None if soft == "unlimited" else int(soft)
    return limits


def _root(folder: Path) -> str | None:
    try:
        return os.readlink(folder / "root")
    except OSError:
        return _UNREADABLE


def _descriptors(folder: Path) -> tuple[str, ...] | None:
    targets = []
    try:
        for entry in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed a moment ago
                targets.append(os.readlink(entry))
    except OSError:
        return _UNREADABLE
    return tuple(targets)


def _environment(folder: Path) -> tuple[str, ...] | None:
    try:
        text = (folder / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return _UNREADABLE
    return tuple(entry.partition("=")[0] for entry in text.split("\0") if entry)
