"""Starts a real supervisor with a real worker in a folder of its own, and looks at both."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from isoplug.shared.errors import SetupError
from isoplug.shared.lockdown import Layer, Lockdown, Protection
from isoplug.shared.version import VERSION
from isoplug.supervisor.config import Config
from isoplug.supervisor.doctor import surroundings
from isoplug.supervisor.doctor.layers import find_layers
from isoplug.supervisor.doctor.process import Sight, look_at
from isoplug.supervisor.doctor.report import Report, WorkerFinding
from isoplug.supervisor.files import reason
from isoplug.supervisor.interpreter import fresh_interpreter
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.runtime_folder import make_runtime_folder
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["examine"]

#: Imports of a second or two on a busy machine, then seven forks.
_CHECKUP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Offers:
    """What ``worker.checkup`` printed."""

    layers: Mapping[Layer, str]
    landlock_abi: int
    versions: Mapping[str, str]


def examine(config: Config) -> Report:
    """What this machine offers workers, and what one with the limits of ``config`` really got. Leaves nothing.

    Raises SetupError where isoplug does not run at all.
    """
    check_platform()
    with tempfile.TemporaryDirectory(prefix="isoplug-doctor-") as name:
        folder = Path(name)
        offers = _offers(folder)
        protection, sight, failure = _worker(folder, config)
        with ExitStack() as cleanup:
            sockets = cleanup.enter_context(make_runtime_folder()).parent
        machine = surroundings.facts(sockets) | {"landlock_abi": offers.landlock_abi}
    return Report(
        config.lockdown,
        find_layers(offers.layers, protection, sight, look_at(os.getpid())),
        None if sight is None else _finding(sight),
        failure,
        {
            "isoplug": VERSION,
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()).strip() or "unknown",
            **offers.versions,
        },
        machine,
        surroundings.notes(machine, config),
    )


def _offers(folder: Path) -> _Offers:
    """Raises SetupError."""
    (folder / "jail").mkdir()
    command = fresh_interpreter("isoplug.worker.checkup", {"folder": str(folder / "jail")})
    try:
        run = subprocess.run(command, env={}, cwd="/", capture_output=True, timeout=_CHECKUP_SECONDS, check=True)
        found = json.loads(run.stdout)
    except subprocess.CalledProcessError as error:
        *_, last = error.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise SetupError(f"the libraries of a worker cannot be loaded: {last}; install isoplug again") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"no process can be started: {error}; free processes, descriptors or memory") from error
    return _Offers(
        {Layer(name): why for name, why in found["layers"].items()}, found["landlock_abi"], found["versions"]
    )


def _worker(folder: Path, config: Config) -> tuple[Protection | None, Sight | None, str | None]:
    """What a worker got by its own word and in /proc, or why there is none. It runs one of the demo's plugins, without
    a workspace."""
    plugins = folder / "plugins"
    (plugins / "words").mkdir(parents=True)
    module = files("isoplug.supervisor.demo") / "plugins" / "words" / "plugin.wasm"
    (plugins / "words" / "plugin.wasm").write_bytes(module.read_bytes())
    own = Config(plugins_dir=plugins, state_dir=folder / "state", lockdown=Lockdown.BEST_EFFORT, limits=config.limits)
    with Supervisor(config=own) as supervisor:
        for error in supervisor.load_errors.values():
            return supervisor.protection, None, str(error)
        ((_, plugin),) = supervisor.plugins.items()
        try:
            return supervisor.protection, look_at(plugin.status.worker_pids[0]), None
        except OSError as error:
            return supervisor.protection, None, f"a worker's folder in /proc is closed to you: {reason(error)}"


def _finding(worker: Sight) -> WorkerFinding:
    (uid, *_) = worker.threads[0].uids
    return WorkerFinding(
        len(worker.threads),
        uid,
        worker.threads[0].seccomp_filters,
        None if worker.descriptors is None else len(worker.descriptors),
        worker.limits,
    )
