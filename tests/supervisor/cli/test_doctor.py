"""``isoplug doctor``, on this machine and on ones that lack something."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import SCRIPT, needs_script
from gaps import as_nobody, lacking, why_nobody_can
from isoplug.shared.lockdown import Layer

pytestmark = needs_script


def doctor(
    folder: Path, *arguments: object, gaps: Mapping[str, int] | None = None, code: int = 0, **user: Any
) -> tuple[str, str]:
    """stdout and stderr. ``folder`` is for all that it writes, and has to be empty afterwards."""
    run = subprocess.run(
        lacking(gaps or {}, [SCRIPT, "doctor", *arguments]),
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **user,
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert not os.listdir(folder)
    return run.stdout, run.stderr


def as_json(folder: Path, *arguments: object, **options: Any) -> dict[str, Any]:
    out, err = doctor(folder, "--json", *arguments, **options)
    assert err == ""
    report: dict[str, Any] = json.loads(out)
    return report


def layers(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in report["layers"]}


@pytest.fixture
def folder(runtime_base: Path) -> Any:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="iso-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def here(runtime_base: Path) -> Any:
    """The report on this machine."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="iso-") as name:
        return as_json(Path(name))


def test_a_worker_has_what_this_machine_offers_and_the_kernel_shows_it(here: dict[str, Any]) -> None:
    assert list(layers(here)) == [str(layer) for layer in Layer]
    for layer in layers(here).values():
        assert layer["applied"] == layer["offered"]
        by_its_word = layer["name"] == "landlock" and layer["applied"]
        assert layer["evidence"] == ("worker" if by_its_word else "kernel" if layer["applied"] else None)
    is_root = os.geteuid() == 0
    assert layers(here)["jail"]["applied"] is (True if is_root else None)
    assert (here["worker"]["uid"] == os.geteuid()) != is_root


def test_the_keys_of_the_json_stay(here: dict[str, Any]) -> None:
    assert list(here) == ["full", "lockdown", "layers", "worker", "failure", "versions", "machine", "notes"]
    assert list(here["layers"][0]) == ["name", "offered", "applied", "evidence", "found", "problem", "advice"]
    assert list(here["worker"]) == ["threads", "uid", "seccomp_filters", "descriptors", "limits"]
    versions = ["isoplug", "python", "libc", "extism", "libextism", "msgpack"]
    assert list(here["versions"]) == versions
    assert all(number[0].isdigit() for name, number in here["versions"].items() if name != "libc")


NO_LANDLOCK = {"landlock_create_ruleset": errno.ENOSYS}


@pytest.mark.parametrize(
    ("layer", "gaps"),
    [
        ("landlock", {"landlock_create_ruleset": errno.EPERM}),
        ("seccomp", {"seccomp": errno.ENOSYS}),
    ],
)
def test_a_layer_that_the_machine_lacks_is_a_gap_with_advice(folder: Path, layer: str, gaps: dict[str, int]) -> None:
    report = as_json(folder, gaps=gaps, code=1)
    assert report["full"] is False
    assert [name for name, one in layers(report).items() if one["problem"]] == [layer]
    gap = layers(report)[layer]
    assert (gap["offered"], gap["applied"], gap["evidence"]) == (False, False, None)
    assert gap["advice"]
    assert report["worker"] is not None


@pytest.mark.usefixtures("needs_root")
def test_what_a_container_keeps_from_root_is_a_gap(folder: Path) -> None:
    report = as_json(folder, gaps={"chroot": errno.EPERM, "setresuid": errno.EPERM}, code=1)
    assert [name for name, one in layers(report).items() if one["problem"]] == ["jail", "user"]
    assert "container" in layers(report)["jail"]["advice"]
    assert layers(report)["undumpable"]["evidence"] == "worker"  # as root's, it looks like any other in /proc


@pytest.mark.parametrize("gaps", [{}, NO_LANDLOCK])
def test_an_unprivileged_user_gets_all_but_what_takes_root(folder: Path, gaps: dict[str, int]) -> None:
    if why := why_nobody_can():
        pytest.skip(why)
    os.chown(folder, as_nobody()["user"], as_nobody()["group"])
    report = as_json(folder, gaps=gaps, code=1 if gaps else 0, **as_nobody())
    applied = {name: one["applied"] for name, one in layers(report).items()}
    assert applied.pop("jail") is applied.pop("user") is None
    assert applied == {name: name != "landlock" or not gaps for name in applied}
    assert report["worker"]["uid"] == as_nobody()["user"]
    assert report["worker"]["descriptors"] is None  # even to its own user


def test_people_get_a_table_the_gaps_and_a_verdict(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "isoplug.toml"
    config.write_text('lockdown = "off"\n')
    out, err = doctor(folder, "--config", config, gaps=NO_LANDLOCK, code=1)
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()[1:8]] == [str(layer) for layer in Layer]
    assert "landlock: this kernel has no Landlock\n  What to do: run Linux 5.13" in out
    assert 'lockdown = "full" would refuse to start workers here.' in out
    assert "its workers get no layer" in out


def test_the_worker_has_the_limits_of_the_configuration(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "isoplug.toml"
    limits = 'wasm_memory = "100MiB"\nprocess_memory = "200MiB"\nopen_files = 50'
    config.write_text(f'lockdown = "off"\nplugins_dir = "none"\n[limits]\n{limits}\n')
    report = as_json(folder, "--config", config)
    assert report["lockdown"] == "off"
    got = report["worker"]["limits"]
    assert (got["data_bytes"], got["open_files"], got["core_bytes"]) == (200 << 20, 50, 0)


def test_a_configuration_that_cannot_be_read_is_a_mistake_in_usage(folder: Path) -> None:
    _, err = doctor(folder, "--config", "/nowhere.toml", code=2)
    assert "cannot read the configuration" in err


def test_a_worker_that_cannot_be_started_is_reported_beside_what_the_machine_offers(
    folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "isoplug.toml"
    config.write_text('[limits]\nwasm_module = "1KiB"\n')
    report = as_json(folder, "--config", config, code=1)
    assert report["worker"] is None
    assert report["failure"]
    assert all(layer["applied"] is None for layer in report["layers"])
    assert not any(layer["problem"] for layer in report["layers"])
