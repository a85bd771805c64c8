"""What plugin authors get under pytest: fixtures and marker in a run of their own, as in their project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from guests import guest, renamed

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
        # Without the cache: what is left in the folder is the plugin's doing, or the fixture's. Without Hypothesis,
        # which pytest would compile anew each time, as that is not kept either: half of the run.
        without = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        command = [sys.executable, "-B", "-m", "pytest", *without, "-q", *options]
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
    result = project.run(tests)
    assert "1 passed" in result.stdout, result.stdout


def test_the_fixture_can_be_left_out(project: Project) -> None:
    result = project.run("def test_it(isoplug_plugin): pass\n", "-p", "no:isoplug")
    assert "fixture 'isoplug_plugin' not found" in result.stdout


FAULTS = """
import pytest
from isoplug.supervisor import WorkerCrashed

@pytest.mark.isoplug_faults("kill", moment="reply", every=3)
@pytest.mark.isoplug_faults("kill", every=2)
def test_it_goes_on(isoplug_plugin, isoplug_faults):
    plugin = isoplug_plugin("build/plugin.wasm")
    for number in range(10):
        assert plugin.command("echo", number, retries=3) == number
    for moment, every in ("delivery", 2), ("reply", 3):
        struck = [one.place.step.number for one in isoplug_faults.injections if one.fault.moment == moment]
        assert len(struck) > 4
        assert struck == [every * number for number in range(1, len(struck) + 1)]
    assert isoplug_faults.assert_promises()
"""


def test_faults_of_a_marker_strike_the_plugin_which_is_not_quarantined_for_them(project: Project) -> None:
    result = project.run(FAULTS, "--strict-markers")
    assert "1 passed" in result.stdout, result.stdout


def test_a_test_without_the_marker_is_struck_by_nothing(project: Project) -> None:
    tests = """
def test_it(isoplug_plugin, isoplug_faults):
    plugin = isoplug_plugin("build/plugin.wasm")
    assert [plugin.command("count") for _ in range(3)] == [1, 2, 3]
    assert not isoplug_faults.injections
    isoplug_faults.assert_promises()
"""
    result = project.run(tests)
    assert "1 passed" in result.stdout, result.stdout


def test_a_folder_of_plugins_is_struck_as_one_is(project: Project) -> None:
    for name in ("a", "b"):
        (project.path / "plugins" / name).mkdir(parents=True)
        module = (project.path / "build" / "plugin.wasm").read_bytes()
        (project.path / "plugins" / name / "plugin.wasm").write_bytes(renamed(module, f"test.{name}"))
    tests = """
import pytest

NESTED = {"plugin_id": "test.b", "command": "echo", "params": 1}

@pytest.mark.isoplug_faults("kill", plugin="test.b", moment="before", times=1)
def test_it(isoplug_supervisor, isoplug_faults):
    harness = isoplug_supervisor("plugins", workspace={"a.md": "x"})
    call = harness.supervisor.command
    assert call("test.a", "call", NESTED)["success"] is False
    assert call("test.a", "call", NESTED) == {"success": True, "data": 1}
    assert [one.plugin_id for one in isoplug_faults.injections] == ["test.b"]
    assert {one.permission for one in harness.permissions.asked} == {"execute_commands"}
    isoplug_faults.assert_promises()
"""
    result = project.run(tests)
    assert "1 passed" in result.stdout, result.stdout
    assert not list((project.path / "plugins").rglob("manifest.json"))  # a copy was loaded


def test_no_input_is_set_aside_for_deaths_that_were_not_its_fault(project: Project) -> None:
    tests = """
import pytest
from isoplug.supervisor import WorkerCrashed

@pytest.mark.isoplug_faults("crash", times=3)
def test_it(isoplug_plugin, isoplug_faults):
    plugin = isoplug_plugin("build/plugin.wasm")
    for _ in range(3):
        with pytest.raises(WorkerCrashed):
            plugin.command("echo", "the same")
    assert plugin.command("echo", "the same") == "the same"
    isoplug_faults.assert_promises()
"""
    result = project.run(tests)
    assert "1 passed" in result.stdout, result.stdout


def test_a_promise_that_does_not_hold_fails_the_test_with_the_first_counter_example(project: Project) -> None:
    tests = """
import pytest
from isoplug.supervisor.testing import RecordingStorage

class Forgetful(RecordingStorage):
    def set(self, plugin_id, key, value, quota_bytes):
        pass

@pytest.mark.isoplug_faults("service-slow", every=2)
def test_it(isoplug_plugin, isoplug_faults):
    plugin = isoplug_plugin("build/plugin.wasm", storage=Forgetful())
    for key in "ab":
        plugin.command("host", {"function": "host_storage_set", "input": '{"key": "%s", "data": "eA=="}' % key})
    isoplug_faults.assert_promises()
"""
    result = project.run(tests)
    assert "1 failed" in result.stdout
    assert "the key 'a' of test.probe does not hold what the guest was told" in result.stdout
    assert re.search(r"^service-slow at call 2, delivery 1, host call 1: ", result.stdout, re.MULTILINE), result.stdout


def test_a_host_with_a_supervisor_of_its_own_is_struck_and_watched(project: Project) -> None:
    tests = """
import pytest
from isoplug.supervisor import Supervisor

@pytest.mark.isoplug_faults("kill", every=2)
def test_it(isoplug_faults, tmp_path):
    with pytest.raises(AssertionError, match="no supervisor was watched"):
        isoplug_faults.assert_promises()
    given = {"interceptors": isoplug_faults.interceptors, "config": isoplug_faults.patient()}
    with Supervisor(state_dir=tmp_path, **given) as supervisor:
        isoplug_faults.watch_over(supervisor)
        supervisor.load_plugin("build/plugin.wasm")
        for number in range(10):
            assert supervisor.command("test.probe", "echo", number, retries=2) == number
        assert len(isoplug_faults.injections) == 9
        isoplug_faults.assert_promises()
"""
    result = project.run(tests)
    assert "1 passed" in result.stdout, result.stdout


def test_outside_pytest_faults_go_into_a_harness(project: Project) -> None:
    script = """
from isoplug.supervisor.chaos import Kill, Plan, Rule
from isoplug.supervisor.testing import Faults, PluginHarness

faults = Faults(Plan((Rule(Kill("delivery"), every=2),)))
with PluginHarness("build/plugin.wasm", faults=faults) as plugin:
    print([plugin.command("echo", number, retries=2) for number in range(4)])
    print(sorted(promise.name for promise in faults.assert_promises())[:1], len(faults.injections))
"""
    run = [sys.executable, "-c", script]
    result = subprocess.run(run, cwd=project.path, capture_output=True, text=True, check=False)
    assert result.stdout == "[0, 1, 2, 3]\n['answered'] 3\n", result.stderr


#: So many calls that at least one is struck, but for one run in 16 million.
CHANCE = """
import pytest
from isoplug.supervisor import PluginError

@pytest.mark.isoplug_faults("kill", probability=0.5)
def test_it(isoplug_plugin):
    plugin = isoplug_plugin("build/plugin.wasm")
    ends = []
    for number in range(24):
        try:
            ends.append(plugin.command("echo", "."))
        except PluginError:
            ends.append("x")
    assert "".join(ends) == "all of them"
"""


def test_a_test_that_fails_under_faults_says_which_and_how_to_repeat_them(project: Project) -> None:
    first = project.run(CHANCE)
    assert "1 failed" in first.stdout
    assert "isoplug faults" in first.stdout
    assert 'name = "kill"' in first.stdout
    (repeat,) = re.findall(r'^pytest "test_plugin.py::test_it" (--isoplug-seed \d+)$', first.stdout, re.MULTILINE)
    second = project.run(CHANCE, *repeat.split())
    ends = [re.findall(r"assert '([.x]{24})' == 'all", run.stdout) for run in (first, second)]
    strikes = [re.findall(r"^kill at .*$", run.stdout, re.MULTILINE) for run in (first, second)]
    assert strikes[0]
    assert strikes[0] == strikes[1]
    assert ends[0]
    assert ends[0] == ends[1]


def test_the_seed_of_a_plan_holds_unless_another_is_asked_for(project: Project) -> None:
    tests = """
import pytest
from isoplug.supervisor.chaos import Kill, Plan, Rule

PLAN = Plan((Rule(Kill("before"), probability=0.5),), seed=7)

@pytest.mark.isoplug_faults(Kill("reply"), every=5)
@pytest.mark.isoplug_faults(PLAN)
def test_it(isoplug_faults):
    assert isoplug_faults.plan.rules == (Rule(Kill("reply"), every=5), *PLAN.rules)
    print(f"seed={isoplug_faults.plan.seed}")
"""
    assert "seed=7" in project.run(tests, "-s").stdout
    assert "seed=8" in project.run(tests, "-s", "--isoplug-seed=8").stdout


def test_markers_that_cannot_be_used_are_named_before_any_test_runs(project: Project) -> None:
    tests = """
import pytest

@pytest.mark.isoplug_faults("kil")
def test_a(): pass

@pytest.mark.isoplug_faults("kill", moment="never")
def test_b(): pass

@pytest.mark.isoplug_faults("kill", moment="reply", how="gently")
def test_c(): pass

@pytest.mark.isoplug_faults("kill", every=0)
def test_d(): pass

@pytest.mark.isoplug_faults("kill", every="second")
def test_e(): pass

@pytest.mark.isoplug_faults()
def test_f(): pass

@pytest.mark.isoplug_faults("kill")
def test_g(): pass

@pytest.mark.isoplug_faults("kill")
def test_h(isoplug_plugin): pass

@pytest.mark.isoplug_faults("kill")
class TestOfAClass:
    def test_i(self): pass
"""
    result = project.run(tests)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    problems = dict(re.findall(r"::test_(\w): @pytest.mark.isoplug_faults: (.*)", result.stderr))
    assert list(problems) == ["a", "b", "c", "d", "e", "f", "g"]
    assert problems["a"].startswith("there is no fault 'kil'; there are ")
    assert "moment is before" in problems["b"]
    assert problems["c"].startswith("fault 'kill' has no such parameter: how; it has moment. Where it ")
    assert problems["d"] == "fault 'kill': every must be 1 or more, not 0"
    assert problems["e"].startswith("fault 'kill': ")
    assert "by name or as a Fault" in problems["f"]
    assert problems["g"].startswith("the test takes none of the fixtures isoplug_plugin, ")


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
