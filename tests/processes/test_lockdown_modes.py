"""``lockdown`` in the configuration, on machines that lack a layer: as root, and as a user who may do nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import SCRIPT, needs_script
from conftest import PluginFolder
from gaps import as_nobody, lacking, why_nobody_can

NO_LANDLOCK = {"landlock_create_ruleset": errno.ENOSYS}
NO_SECCOMP = {"seccomp": errno.ENOSYS}

pytestmark = needs_script


@dataclass(frozen=True)
class Machine:
    """``isoplug list`` with one plugin, as ``user`` (arguments of Popen)."""

    folder: Path
    user: Mapping[str, Any]

    def list(self, lockdown: str, gaps: Mapping[str, int], *, code: int) -> tuple[dict[str, Any], list[str]]:
        """What it printed, and its log's lines about the lock-down."""
        config = self.folder / "isoplug.toml"
        config.write_text(f'plugins_dir = "plugins"\nstate_dir = "state"\nlockdown = "{lockdown}"\n')
        run = subprocess.run(
            lacking(gaps, [SCRIPT, "list", "--json", "-v", "--config", config]),
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            **self.user,
        )
        assert run.returncode == code, run.stdout + run.stderr
        assert not [name for name in os.listdir(self.folder) if name.startswith("isoplug-")]
        return json.loads(run.stdout), [line for line in run.stderr.splitlines() if " lockdown." in line]


@pytest.fixture(params=["whoever runs the tests", "an unprivileged user"])
def machine(request: pytest.FixtureRequest, guest_cache: Path) -> Iterator[Machine]:
    """In a folder that everybody can reach; pytest's own is private."""
    is_other = request.param != "whoever runs the tests"
    if is_other and (why := why_nobody_can()):
        pytest.skip(why)
    user = as_nobody() if is_other else {}
    with tempfile.TemporaryDirectory(prefix="iso-", dir="/tmp") as name:
        folder = Path(name)
        PluginFolder(folder / "plugins", guest_cache).add()
        PluginFolder(folder / "plugins", guest_cache).add("test.other")
        if is_other:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, user["user"], user["group"])
        yield Machine(folder, user)


@pytest.mark.parametrize(("layer", "gaps"), [("landlock", NO_LANDLOCK), ("seccomp", NO_SECCOMP)])
def test_full_refuses_to_start_workers_without_a_layer_and_names_it(
    machine: Machine, layer: str, gaps: dict[str, int]
) -> None:
    listed, log = machine.list("full", gaps, code=6)
    assert listed["plugins"] == []
    assert set(listed["load_errors"]) == {"test.probe", "test.other"}
    for error in listed["load_errors"].values():
        assert error["code"] == "setup_error"
        assert 'lockdown = "full"' in error["message"]
        assert f"({layer}: this kernel has no " in error["message"]
        assert "isoplug doctor" in error["message"]
    assert log == []  # the error says it


def test_full_starts_workers_where_nothing_is_missing(machine: Machine) -> None:
    listed, log = machine.list("full", {}, code=0)
    assert [plugin["state"] for plugin in listed["plugins"]] == ["ready", "ready"]
    assert log == []


def test_best_effort_does_without_and_warns_once_a_supervisor(machine: Machine) -> None:
    listed, log = machine.list("best-effort", NO_LANDLOCK, code=0)
    assert len(listed["plugins"]) == 2  # each with a process that found it missing
    (warning,) = log
    assert "WARNING lockdown.incomplete" in warning
    assert "landlock=" in warning
    assert "isoplug doctor" in warning
    assert "seccomp=" not in warning


def test_best_effort_does_without_a_jail(machine: Machine) -> None:
    """A worker with a user id of its own has to reach its socket in a private folder all the same."""
    listed, _ = machine.list("best-effort", {"chroot": errno.EPERM}, code=0)
    assert [plugin["state"] for plugin in listed["plugins"]] == ["ready", "ready"]


def test_off_starts_workers_and_says_so_without_a_warning(machine: Machine) -> None:
    listed, log = machine.list("off", NO_LANDLOCK | NO_SECCOMP, code=0)
    assert len(listed["plugins"]) == 2
    (line,) = log
    assert "INFO" in line
    assert "lockdown.off" in line


def test_what_only_root_can_apply_is_missing_for_root_and_for_nobody_else(machine: Machine) -> None:
    is_root = os.geteuid() == 0 and not machine.user
    listed, _ = machine.list("full", {"chroot": errno.EPERM, "setresuid": errno.EPERM}, code=6 if is_root else 0)
    for error in listed["load_errors"].values():
        assert "(jail: " in error["message"]
        assert "; user: " in error["message"]
    assert bool(listed["load_errors"]) == is_root
