"""The configuration's defaults, its loader and what the loader says to mistakes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from isoplug.shared.errors import SetupError
from isoplug.supervisor.config import (
    Calls,
    Config,
    Http,
    Limits,
    Namespaces,
    Record,
    Recycle,
    Restart,
    SecretsKey,
    Server,
    Service,
    Signatures,
    Sleep,
    Wasi,
    Websockets,
    describe_problems,
    load_config,
)

CONFIGS = Path(__file__).parents[3] / "configs"
SECTIONS: dict[str, type[BaseModel]] = {
    "calls": Calls,
    "restart": Restart,
    "recycle": Recycle,
    "sleep": Sleep,
    "limits": Limits,
    "http": Http,
    "websockets": Websockets,
    "server": Server,
    "secrets": SecretsKey,
    "signatures": Signatures,
    "namespaces": Namespaces,
    "wasi": Wasi,
    "record": Record,
    "service": Service,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "isoplug.toml"


def complaint(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(SetupError) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


# --- files that come with isoplug ---------------------------------------------------------------------------


def test_the_default_file_equals_the_defaults_of_the_code() -> None:
    assert load_config(CONFIGS / "default.toml") == Config()


def test_the_default_file_names_every_key_once_and_comments_it() -> None:
    lines = (CONFIGS / "default.toml").read_text().splitlines()
    keys = [match[1] for line in lines if (match := re.match(r"(?:# )?([a-z_]+) = ", line))]
    fields = [name for name in Config.model_fields if name not in SECTIONS and name != "plugins"]
    fields += [name for section in SECTIONS.values() for name in section.model_fields]
    assert keys == fields
    for number, line in enumerate(lines):
        if re.match(r"[a-z_]+ = ", line):
            assert lines[number - 1].startswith("# "), line


def test_the_default_files_example_of_a_plugins_section_loads(file: Path) -> None:
    lines = (CONFIGS / "default.toml").read_text().splitlines()
    file.write_text("\n".join(line.removeprefix("#   ") for line in lines if line.startswith("#   ")))
    (own,) = load_config(file).plugins.values()
    assert len(own.sha256 or "") == 64
    assert (own.workers, own.restart.max_restarts, own.recycle.calls, own.limits.cpu_per_call) == (4, 10, 1000, 2.0)


@pytest.mark.parametrize("name", ["development.toml", "production.toml"])
def test_the_other_files_load(name: str) -> None:
    assert load_config(CONFIGS / name) != Config()


def test_production_is_stricter_than_the_defaults_and_development_is_not() -> None:
    production, development = (load_config(CONFIGS / f"{name}.toml") for name in ("production", "development"))
    assert (production.lockdown, Config().lockdown, development.lockdown) == ("full", "best-effort", "off")
    for name in ("wasm_memory", "process_memory", "output", "processes", "host_calls_per_call", "log_lines_per_second"):
        assert getattr(production.limits, name) < getattr(Config().limits, name), name
    assert production.limits.cpu_per_call > 0
    assert production.limits.host_calls_per_second > 0


def test_the_defaults_pass_their_own_validation() -> None:
    assert Config.model_validate(Config().model_dump()) == Config()


# --- reading ------------------------------------------------------------------------------------------------


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    file.touch()
    assert load_config(file) == Config()


def test_text_with_units_becomes_seconds_and_bytes(file: Path) -> None:
    file.write_text('[calls]\ntimeout = "1.5m"\n[limits]\nframe = "512KB"\nwasm_memory = "1 MiB"\n')
    config = load_config(file)
    assert (config.calls.timeout, config.limits.frame, config.limits.wasm_memory) == (90.0, 512_000, 1 << 20)


def test_relative_paths_start_at_the_files_folder_and_the_root_index_at_the_workspace(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    file.write_text(
        'workspace = "journal"\nplugins_dir = "/srv/plugins"\nstate_dir = "~/state"\nroot_index = "README.md"\n'
    )
    monkeypatch.chdir(file.parent)
    for name in (file, Path(file.name)):
        config = load_config(name)
        assert config.workspace == file.parent / "journal"
        assert config.plugins_dir == Path("/srv/plugins")
        assert config.state_dir == Path("/home/someone/state")
        assert config.root_index == Path("README.md")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Calls.model_fields)), st.integers(1, 60)))
def test_what_python_takes_as_numbers_the_file_takes_with_units(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, int]
) -> None:
    file = tmp_path_factory.mktemp("c") / "c.toml"
    timed = {name: f'"{value}s"' if name.endswith(("timeout", "idle")) else value for name, value in values.items()}
    lines = [f"{name} = {value}" for name, value in timed.items()]
    file.write_text("\n".join(["[calls]", *lines]))
    expected: Any = values
    assert load_config(file) == Config(calls=Calls(**expected))


def test_what_a_plugins_section_leaves_out_is_as_in_the_general_ones(file: Path) -> None:
    file.write_text(
        '[restart]\nperiod = "7s"\nbackoff_max = "60s"\n[recycle]\nage = "1h"\n'
        '[plugins."a.b"]\nworkers = 3\n[plugins."a.b".restart]\nbackoff_initial = "45s"\n'
        '[plugins."a.b".recycle]\ncalls = 5\nage = "0s"\n'
        '[limits]\nframe = "1MiB"\ncpu_per_call = "9s"\n'
        '[plugins."a.b".limits]\ncpu_per_call = "2s"\nlog_lines_per_second = 0\n'
    )
    config = load_config(file).override(app_version="1.5.0")
    own, other = config.of_plugin("a.b"), config.of_plugin("c")
    assert own.workers == 3
    assert own.restart == Restart(period=7.0, backoff_max=60.0, backoff_initial=45.0)
    assert own.recycle == Recycle(calls=5)
    assert own.limits == Limits(frame=1 << 20, cpu_per_call=2.0, log_lines_per_second=0)
    assert other.limits == Limits(frame=1 << 20, cpu_per_call=9.0)
    assert (other.workers, other.restart, other.recycle) == (1, config.restart, Recycle(age=3600.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker = 2", r"""plugins."a.b".worker: unknown key; did you mean 'plugins."a.b".workers'\?"""),
        ("workers = 0", r'plugins."a.b".workers: must be at least 1, not 0'),
        ("[plugins.'a.b'.restart]\nperiot = '1s'", r"""did you mean 'plugins."a.b".restart.period'\?"""),
        ("[plugins.'a.b'.recycle]\nage = 5", r'plugins."a.b".recycle.age: has no unit'),
        ("[plugins.'a.b'.recycle]\nmemory = '-1B'", r'plugins."a.b".recycle.memory: must be a number with a unit'),
        ("[plugins.'a.b'.restart]\nbackoff_initial = '31s'", r'plugins."a.b".restart: backoff_initial .* is longer'),
    ],
)
def test_a_mistake_in_a_plugins_section_is_named_with_its_key(file: Path, text: str, says: str) -> None:
    assert re.search(says, complaint(file, f'[plugins."a.b"]\n{text}'))


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workspac = 'x'", r"workspac: unknown key; did you mean 'workspace'\?"),
        ("[calls]\ntimeot = '1s'", r"calls.timeot: unknown key; did you mean 'calls.timeout'\?"),
        ("[calls]\nmax-depth = 3", r"did you mean 'calls.max_depth'\?"),
        ("timeout = '3s'", r"timeout: unknown key here; it belongs to section \[calls\]"),
        ("[calls]\nworkspace = 'x'", "belongs to the top of the file"),
        ("[restarts]\nperiod = '1s'", r"restarts: unknown key; did you mean 'restart'\?"),
        ("[limits]\nzzzz = 1", "limits.zzzz: unknown key; known here: wasm_memory, "),
        (
            "[calls]\ntimeout = 30",
            r'calls.timeout: has no unit: write text with one, such as "30s" \(units: ms',
        ),
        ("[calls]\ntimeout = 1.5", 'such as "1.5s"'),
        ("[calls]\ntimeout = '30'", 'calls.timeout: has no unit: write "30s"'),
        ("[calls]\ntimeout = true", "calls.timeout: must be text with a unit"),
        ("[calls]\ntimeout = '0s'", "calls.timeout: must be more than 0s, not 0s"),
        ("[calls]\ntimeout = '200h'", "calls.timeout: must be at most 168h, not 200h"),
        ("[limits]\nframe = 65536", 'limits.frame: has no unit: .* such as "65536B"'),
        ("[limits]\nstorage_quota = '2GiB'", "limits.storage_quota: must be at most 1GiB, not 2GiB"),
        ("[calls]\nmax_depth = 65", "calls.max_depth: must be at most 64, not 65"),
        ("[calls]\nmax_depth = -1", "calls.max_depth: must be at least 0"),
        (
            "[calls]\nmax_depth = '8'",
            "calls.max_depth: must be a whole number, not '8'; write for example max_depth = 8",
        ),
        ("[calls]\nmax_depth = 8.0", "must be a whole number"),
        ("[calls]\nmax_depth = true", "must be a whole number"),
        ("calls = 3", r"calls: must be a section; write \[calls\]"),
        ("[[calls]]", r"calls: must be a section; write \[calls\]"),
        ("workspace = 3", "workspace: must be a path, not 3; write it in quotes"),
        ("workspace = ''", "workspace: must be a path, not an empty text"),
        ('workspace = "a\\u0000b"', "workspace: must not contain a NUL"),
        ("workspace = '~nobody-of-this-name/x'", "home folder that cannot be found"),
        ("root_index = '/etc/passwd'", "root_index: must be a file name relative to the workspace"),
        ("root_index = '../x.md'", "root_index: must be a file name relative to the workspace"),
        ("app_version = '1'", "app_version: must be a version"),
        ("app_version = 1.4", "app_version: must be text, not 1.4"),
        (
            "[restart]\nbackoff_initial = '1m'",
            r"backoff_initial \(60 s\) is longer than backoff_max \(30 s\)",
        ),
        ("[limits]\nwasm_memory = '1GiB'", r"wasm_memory \(1073741824 bytes\) is larger than process_memory"),
        ("lockdown = 'some'", "lockdown: should be 'full', 'best-effort' or 'off', not 'some'"),
        ("lockdown = true", "lockdown: should be 'full', 'best-effort' or 'off', not True"),
        ("[limits]\nlockdown = 'full'", "limits.lockdown: unknown key here; it belongs to the top of the file"),
        ("[limits]\ncpu_per_call = 5", 'limits.cpu_per_call: has no unit: .* such as "5s"'),
        ("[limits]\nhost_calls_per_call = -1", "limits.host_calls_per_call: must be at least 0, not -1"),
        ("[limits]\nprocesses = 3", "limits.processes: must be at least 32, not 3"),
        (
            "[plugins.'a.b'.limits]\nwasm_memory = '1GiB'",
            r'plugins\."a\.b"\.limits: wasm_memory \(1073741824 bytes\) is larger than process_memory',
        ),
        (
            "[plugins.'a.b'.limits]\nframe = '1MiB'",
            r"limits\.frame: unknown key here; it belongs to section \[limits\]",
        ),
        ("[plugins.'a.b'.limits]\noutput = '2GiB'", r'plugins\."a\.b"\.limits\.output: must be at most 1GiB, not 2GiB'),
        ("a = [", "is not TOML: .*line 1"),
        ("x = 1\ny = = 2", "is not TOML: .*line 2"),
        ("x = 1\nx = 2", "is not TOML: .*line 2"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("x = " + "1" * 5000, "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_to_write(file: Path, text: str, says: str) -> None:
    assert re.search(says, complaint(file, text))


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    text = complaint(file, "workspac = 'x'\n[calls]\ntimeout = 3\nmax_depth = 'x'\n[limits]\nframe = 1\n")
    assert len(text.splitlines()) == 5
    many = complaint(file, "\n".join(f"key{n} = 1" for n in range(50)))
    assert "and 30 more" in many


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(SetupError, match="directory"):
        load_config(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SetupError, match="not a regular file"):
        load_config(tmp_path / "fifo")
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe4'")
    with pytest.raises(SetupError, match=r"not UTF-8 text \(line 2\)"):
        load_config(tmp_path / "latin.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(SetupError, match="larger than"):
        load_config(tmp_path / "huge.toml")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_configuration_or_a_set_up_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("c") / "c.toml"
    file.write_bytes(data)
    message = str(file)
    try:
        load_config(file)
    except SetupError as error:
        message = str(error)
    assert str(file) in message


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted({*Config.model_fields, *(name for section in SECTIONS.values() for name in section.model_fields)})


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), json_like | st.dictionaries(st.sampled_from(KEYS), json_like), max_size=4)
)
def test_wrong_values_of_any_kind_are_described_in_one_line_each(values: dict[str, Any]) -> None:
    problems, count = list[str](), 0
    try:
        Config.model_validate(values)
    except ValidationError as error:
        problems, count = describe_problems(error), error.error_count()
    assert len(problems) == count
    assert all(": " in problem and len(problem) < 400 for problem in problems)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('key_source = "vault"', "secrets.key_source: should be 'file', 'env' or 'keyring', not 'vault'"),
        ('key_source = "keyring"\nkey_file = "k"', 'key_file says nothing to the key_source "keyring"'),
        ('key_env = ""', "secrets.key_env: must be the name of an environment variable"),
        ('key_env = "A=B"', "secrets.key_env: must be the name of an environment variable"),
        ('key_file = ""', "secrets.key_file: must be a path"),
        ('key = "x"', "did you mean 'secrets.key_"),
    ],
)
def test_mistakes_about_the_key_of_the_secrets_are_told(file: Path, text: str, words: str) -> None:
    assert words in complaint(file, f"[secrets]\n{text}\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[plugins."a.b"]\nsha256 = "abc"', 'plugins."a.b".sha256: must be a SHA-256 of 64 hexadecimal digits'),
        ('[plugins."a.b"]\nsha256 = 5', 'plugins."a.b".sha256: must be text'),
        ('[plugins."a.b"]\nsha265 = "x"', """did you mean 'plugins."a.b".sha256'?"""),
        ('[signatures]\ntrusted_keys = "author.pub"', "signatures.trusted_keys: must be a list of paths"),
        ('[signatures]\ntrusted_keys = [""]', "signatures.trusted_keys.0: must be a path"),
        ("[signatures]\nrequired = true", "required refuses every plugin as long as trusted_keys names no key"),
    ],
)
def test_mistakes_about_pins_and_signatures_are_told(file: Path, text: str, words: str) -> None:
    assert words in complaint(file, text)


def test_trusted_keys_of_a_file_start_at_its_folder_and_hashes_are_in_lower_case(file: Path) -> None:
    file.write_text(f'[signatures]\ntrusted_keys = ["author.pub"]\n[plugins."a.b"]\nsha256 = "{"AB" * 32}"\n')
    config = load_config(file)
    assert config.signatures.trusted_keys == (file.parent / "author.pub",)
    assert config.plugins["a.b"].sha256 == "ab" * 32


@pytest.mark.parametrize("name", ["", "A=B", "A\\u0000"])
def test_the_variable_of_the_server_s_token_must_be_one_that_can_be_set(file: Path, name: str) -> None:
    problem = complaint(file, f'[server]\nauth_token_env = "{name}"\n')
    assert "server.auth_token_env: must be the name of an environment variable" in problem


def test_the_key_file_of_a_file_starts_at_its_folder(file: Path) -> None:
    file.write_text('[secrets]\nkey_file = "secrets.key"\n')
    assert load_config(file).secrets.key_file == file.parent / "secrets.key"


# --- in Python ----------------------------------------------------------------------------------------------


def test_python_takes_plain_numbers_and_paths() -> None:
    config = Config(workspace=Path("journal"), calls=Calls(timeout=5.0), limits=Limits(storage_quota=4096))
    assert (config.calls.timeout, config.limits.storage_quota) == (5.0, 4096)
    assert config.workspace == Path("journal")
    assert Calls(timeout=5).timeout == 5.0


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), 0, -1, None, "30"])
def test_python_is_held_to_the_same_bounds(value: Any) -> None:
    with pytest.raises(ValidationError):
        Calls(timeout=value)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().calls = Calls()


def test_an_override_is_validated_and_leaves_the_rest() -> None:
    config = Config(app_version="2.0", calls=Calls(timeout=3.0))
    changed = config.override(workspace=Path("j"))
    assert (changed.workspace, changed.app_version, changed.calls.timeout) == (Path("j"), "2.0", 3.0)
    with pytest.raises(ValidationError):
        config.override(app_version="x")
    with pytest.raises(ValidationError):
        config.override(workspac="x")
