"""A host that runs out of descriptors gets typed errors. libzmq would abort the whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PluginFolder, Workspace

HOST = """
import os, resource, sys
from isoplug.supervisor import PluginError, Supervisor

plugins, workspace, state, free = sys.argv[1:4] + [int(sys.argv[4])]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
taken = []
while True:
    try:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        break
for fd in taken[:free]:
    os.close(fd)
try:
    with Supervisor(plugins, workspace, state_dir=state) as supervisor:
        print("loaded", len(supervisor.plugins), *(type(e).__name__ for e in supervisor.load_errors.values()))
        for plugin_id in supervisor.plugins:
            assert supervisor.call(plugin_id, "echo", b"x") == b"x"
except PluginError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("free", [0, 3, 8, 14, 20, 26, 30, 31, 32, 36, 60])
def test_too_few_descriptors_are_an_error_and_never_the_end_of_the_host(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path, free: int
) -> None:
    plugins.add("test.one")
    plugins.add("test.two")
    runtime = tmp_path / "run"
    runtime.mkdir()
    arguments = [str(plugins.path), str(workspace.path), str(tmp_path / "state"), str(free)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(runtime)}
    host = subprocess.run(
        [sys.executable, "-c", HOST, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert host.returncode == 0, host.stderr
    assert host.stdout.startswith(("loaded", "SetupError", "ServiceError")), host.stdout
    assert free < 60 or host.stdout.startswith("loaded 2"), host.stdout
    assert not list(runtime.iterdir())
