"""The unit for systemd, and the configuration that goes with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from commands import SCRIPT
from isoplug.supervisor.config import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
UNIT = (CONFIGS / "isoplug.service").read_text()


def value_of(key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_the_production_configuration_fits_the_unit() -> None:
    config = load_config(CONFIGS / "production.toml")
    writable = [f"/var/lib/{name}" for name in value_of("StateDirectory").split()]
    assert str(config.state_dir) == writable[0]
    (suggested,) = re.findall(r'^# key_file = "(.*)"$', (CONFIGS / "production.toml").read_text(), re.MULTILINE)
    assert str(Path(suggested).parent) in writable
    for folder in (config.plugins_dir, config.workspace):
        assert folder is not None
        assert folder.is_relative_to(value_of("ReadWritePaths"))
    assert int(value_of("TimeoutStopSec").removesuffix("s")) > 2 * config.calls.shutdown_timeout


def test_the_unit_starts_and_reloads_the_same_configuration() -> None:
    start, reload = value_of("ExecStart"), value_of("ExecReload")
    assert start.replace(" run ", " reload ") == reload


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("this machine has no systemd-analyze")
    unit = tmp_path / "isoplug.service"
    unit.write_text(UNIT.replace("/opt/isoplug/bin/isoplug", str(SCRIPT)))
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in result.stderr.splitlines() if "isoplug.service" in line]
    assert (result.returncode, complaints) == (0, [])
