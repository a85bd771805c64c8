"""The documents say what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import isoplug.supervisor
from isoplug.supervisor.host import HOST_FUNCTIONS

ROOT = Path(__file__).parents[2]


def commands_in_readme() -> list[str]:
    return re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readme_has_two_commands_and_ci_runs_the_second_as_printed() -> None:
    demo, tests = commands_in_readme()
    assert demo.endswith("isoplug demo")
    assert tests in (ROOT / ".ci" / "run").read_text()


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
    files = [*data.glob("demo/**/*.wasm"), *data.glob("demo/**/*.md"), data / "sdk" / "isoplug.h"]
    assert len(files) > 15
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not ignored.stdout


def test_the_readme_s_python_runs_on_the_demo_s_plugins(tmp_path: Path) -> None:
    demo = Path(isoplug.supervisor.__file__).with_name("demo")
    shutil.copytree(demo / "plugins", tmp_path / "plugins")
    shutil.copytree(demo / "journal", tmp_path / "journal")
    use, checker = re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")}
    run = [sys.executable, "-c", use]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "'total'" in result.stdout
    assert "read_files" in result.stdout
    assert result.stdout.endswith(("ready\n", "busy\n"))
    compile(checker, "README.md", "exec")
