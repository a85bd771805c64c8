"""What plugin authors get under pytest: the fixture in a run of its own, as it stands in their project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from guests import guest

AUTHORS_TESTS = """
def test_the_plugin_answers(isoplug_plugin):
    plugin = isoplug_plugin("build/plugin.wasm", permissions={"read_files": ["all"]}, config={"colour": "red"})
    assert plugin.command("echo", [1]) == [1]
    assert plugin.get_config() == {"colour": "red"}


def test_the_plugin_answers_wrongly(isoplug_plugin):
    assert isoplug_plugin("build/plugin.wasm").command("echo", 1) == 2
"""

#: What must not be imported into runs that do not use it; all of it takes a tenth of a second or more together.
HEAVY = ("pydantic", "zmq", "msgpack", "extism", "structlog", "aiohttp", "yaml", "sqlite3", "cryptography")


@dataclass
class Project:
    """A plugin author's folder."""

    path: Path

    def run(self, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
        (self.path / "test_plugin.py").write_text(tests)
        # Without the cache: what is left in the folder is the plugin's doing, or the fixture's.
        command = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", *options]
        environment = {**os.environ, "TMPDIR": str(self.path.parent)}
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path, guest_cache: Path) -> Project:
    folder = tmp_path / "project"
    (folder / "build").mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(guest("probe", guest_cache), folder / "build" / "plugin.wasm")
    return Project(folder)


def test_an_authors_tests_pass_and_fail_as_the_plugin_does_and_leave_nothing(project: Project) -> None:
    result = project.run(AUTHORS_TESTS)
    assert "1 failed, 1 passed" in result.stdout
    assert "assert 1 == 2" in result.stdout
    assert sorted(os.listdir(project.path)) == ["build", "pytest.ini", "test_plugin.py"]
    assert os.listdir(project.path / "build") == ["plugin.wasm"]
    assert os.listdir(project.path.parent) == ["project"]


def test_a_plugin_ends_with_its_test_whoever_still_holds_it(project: Project) -> None:
    tests = """
import pytest
from isoplug.supervisor import SupervisorClosed

held = []

def test_one(isoplug_plugin):
    held.extend([isoplug_plugin("build/plugin.wasm"), isoplug_plugin("build/plugin.wasm")])
    assert [plugin.command("count") for plugin in held] == [1, 1]

def test_two():
    for plugin in held:
        assert not plugin.workspace.exists()
        with pytest.raises(SupervisorClosed):
            plugin.command("count")
"""
    result = project.run(tests)
    assert "2 passed" in result.stdout, result.stdout


def test_a_module_that_is_missing_fails_the_test_with_the_path_that_was_looked_at(project: Project) -> None:
    result = project.run('def test_it(isoplug_plugin):\n    isoplug_plugin("target/plugin.wasm")\n')
    assert "1 failed" in result.stdout
    assert f"cannot read {project.path}/target/plugin.wasm: No such file" in result.stdout


def test_a_path_counts_from_the_root_folder_wherever_pytest_is_started(project: Project) -> None:
    (project.path / "deep").mkdir()
    result = project.run(AUTHORS_TESTS, "--rootdir", ".", "-k", "not wrongly", "deep", "test_plugin.py")
    assert "1 passed" in result.stdout, result.stdout


def test_the_option_and_the_ini_key_name_the_plugin_that_tests_leave_out(project: Project) -> None:
    tests = 'def test_it(isoplug_plugin):\n    assert isoplug_plugin().manifest.id == "test.probe"\n'
    result = project.run(tests)
    assert "--isoplug-plugin PATH" in result.stdout
    assert "1 failed" in result.stdout
    (project.path / "pytest.ini").write_text("[pytest]\nisoplug_plugin = build/plugin.wasm\n")
    assert "1 passed" in project.run(tests).stdout
    assert "other.wasm" in project.run(tests, "--isoplug-plugin=other.wasm").stdout


def test_a_run_that_does_not_use_the_fixture_imports_next_to_nothing_for_it(project: Project) -> None:
    project.run("def test_nothing(): pass\n")
    tests = f"""
import sys

def test_it():
    loaded = sorted(name for name in sys.modules if name.startswith("isoplug."))
    assert "isoplug.supervisor.testing.pytest_plugin" in loaded
    assert len(loaded) <= 8, loaded
    assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    result = project.run(tests, "-p", "no:hypothesispytest")
    assert "1 passed" in result.stdout, result.stdout


def test_the_fixture_can_be_left_out(project: Project) -> None:
    result = project.run("def test_it(isoplug_plugin): pass\n", "-p", "no:isoplug")
    assert "fixture 'isoplug_plugin' not found" in result.stdout


def test_without_pytest_the_harness_can_still_be_used(project: Project) -> None:
    script = """
import sys
sys.modules["pytest"] = sys.modules["_pytest"] = None  # as if it were not installed
from isoplug.supervisor.testing import PluginHarness
with PluginHarness("build/plugin.wasm") as plugin:
    print(plugin.command("echo", "here"))
"""
    run = [sys.executable, "-c", script]
    result = subprocess.run(run, cwd=project.path, capture_output=True, text=True, check=False)
    assert result.stdout == "here\n", result.stderr


def test_the_public_names_are_sorted_and_all_there() -> None:
    import isoplug.supervisor.testing as testing

    assert testing.__all__ == sorted(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)
    assert not hasattr(testing, "Absent")
