"""The documents say what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isoplug.supervisor
from isoplug.supervisor.chaos import Plan
from isoplug.supervisor.config import load_config
from isoplug.supervisor.host import HOST_FUNCTIONS

ROOT = Path(__file__).parents[2]


def commands_in_readme() -> list[str]:
    return re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)


def python_in_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readme_has_two_commands_and_ci_runs_the_second_as_printed() -> None:
    demo, tests = commands_in_readme()
    assert demo.endswith("isoplug demo")
    assert tests in (ROOT / ".ci" / "run").read_text()


def test_the_readme_s_configuration_and_fault_plan_can_be_used(tmp_path: Path) -> None:
    plans = 0
    for text in re.findall(r"```toml\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL):
        if "[[fault]]" in text:
            assert Plan.from_toml(text).rules
            plans += 1
        else:
            (tmp_path / "isoplug.toml").write_text(text)
            load_config(tmp_path / "isoplug.toml")
    assert plans == 1


def test_every_path_in_the_change_table_exists() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("## To change X, open Y")[1].split("\n## ")[0]
    paths = re.findall(r"`([\w./-]+/[\w./-]*)`", table)
    assert len(paths) > 30
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_the_tree_in_the_architecture_names_every_package_of_the_supervisor() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("## The tree")[1].split("\n## ")[0]
    source = ROOT / "supervisor" / "isoplug" / "supervisor"
    modules = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    unnamed = [name for name in sorted(modules - {"__init__"}) if not re.search(rf"\b{name}\b", tree)]
    assert not unnamed


def test_there_are_exactly_41_host_functions() -> None:
    assert len(HOST_FUNCTIONS) == 41


def test_the_table_of_contents_of_the_public_package_is_sorted_and_complete() -> None:
    names = isoplug.supervisor.__all__
    assert names == sorted(names)
    assert all(hasattr(isoplug.supervisor, name) for name in names)


def test_imports_only_go_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_no_module_of_the_package_is_left_out_of_the_wheel_by_an_ignore_rule() -> None:
    data = ROOT / "supervisor" / "isoplug" / "supervisor"
    files = [
        *data.glob("demo/**/*.wasm"),
        *data.glob("bench/**/*.wasm"),
        *data.glob("demo/**/*.md"),
        data / "sdk" / "isoplug.h",
    ]
    assert len(files) > 15
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not ignored.stdout


def test_every_path_in_the_table_of_promises_exists() -> None:
    table = (ROOT / "SECURITY.md").read_text().split("## Promises")[1].split("\n## ")[0]
    paths = re.findall(r"`(tests/[\w./]+)`", table)
    assert len(paths) > 15
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Where the README's Python is to be run: beside the demo's plugins and journal."""
    source = Path(isoplug.supervisor.__file__).with_name("demo")
    for name in ("plugins", "journal"):
        shutil.copytree(source / name, tmp_path / name)
    return tmp_path


def run_python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data")}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_readme_s_python_runs_on_the_demo_s_plugins(demo: Path) -> None:
    use, checker, vault, failing, _ = python_in_readme()
    output = run_python(demo, "-c", use)
    assert "'total'" in output
    assert "read_files" in output
    assert output.endswith(("ready\n", "busy\n"))
    output = run_python(demo, "-c", failing)
    assert "no_effects" in output
    assert "diaryx.daily read_files private/letter.md" in output
    for service in (checker, vault):
        run_python(demo, "-c", f"{service}\nassert not supervisor.load_errors\nsupervisor.close()")


def test_the_readme_s_test_passes_on_the_demo_s_plugins(demo: Path) -> None:
    (demo / "test_words.py").write_text(python_in_readme()[4])
    assert "1 passed" in run_python(demo, "-m", "pytest", "-q")
