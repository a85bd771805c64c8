"""Secrets, as guests meet them, and what is to be seen of them anywhere else: nothing."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import pytest

from bench import PROBE, ask
from conftest import PluginFolder, Workspace
from isoplug.shared.errors import PermissionDenied, ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, SecretsKey

Supervise = Callable[..., Supervisor]
OTHER = "test.other"
VALUE = "correct horse battery staple"


@pytest.fixture
def two(plugins: PluginFolder) -> PluginFolder:
    """PROBE and OTHER in a folder of the test's own, for ``supervise``."""
    plugins.add()
    plugins.add(OTHER)
    return plugins


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


pytestmark = pytest.mark.usefixtures("two")


def keep(supervisor: Supervisor, key: str, value: str, plugin_id: str = PROBE) -> str:
    return ask(supervisor, "host_secret_set", {"key": key, "value": value}, plugin_id).decode()


def kept(supervisor: Supervisor, key: str, plugin_id: str = PROBE) -> str | None:
    answer = ask(supervisor, "host_secret_get", {"key": key}, plugin_id)
    if not answer:
        return None
    parsed = json.loads(answer)
    assert list(parsed) == ["value"]
    return str(parsed["value"])


def forget(supervisor: Supervisor, key: str, plugin_id: str = PROBE) -> str:
    return ask(supervisor, "host_secret_delete", {"key": key}, plugin_id).decode()


def files_of_secrets(state: Path) -> list[str]:
    return sorted(path.name for path in state.glob("secrets*"))


# --- what guests get ------------------------------------------------------------------------------------------------


def test_secrets_are_private_to_the_plugin_apart_from_storage_and_survive_the_supervisor(supervise: Supervise) -> None:
    supervisor = supervise()
    keys = ["key", "a/b", "a:b", "a_b", "../x", "", "NUL\0", "ключ", "x" * 1024]
    for number, key in enumerate(keys):
        assert keep(supervisor, key, f"{number}\0ü🗝") == "", key
    for number, key in enumerate(keys):
        assert kept(supervisor, key) == f"{number}\0ü🗝", key
        assert kept(supervisor, key, OTHER) is None
        assert ask(supervisor, "host_storage_get", {"key": key}) == b""
    supervisor.close()
    assert kept(supervise(), "ключ") == "7\0ü🗝"


def test_an_empty_secret_is_one_and_a_deleted_one_is_none(supervise: Supervise) -> None:
    supervisor = supervise()
    assert forget(supervisor, "key") == ""
    assert keep(supervisor, "key", "") == ""
    assert kept(supervisor, "key") == ""
    assert forget(supervisor, "key") == ""
    assert kept(supervisor, "key") is None


def test_the_quota_of_the_rule_counts_for_secrets_apart_from_storage(
    supervise: Supervise, workspace: Workspace
) -> None:
    workspace.grant(PROBE, plugin_storage={"include": ["all"], "quota_bytes": 1000})
    supervisor = supervise()
    full = base64.b64encode(bytes(1000)).decode()
    assert ask(supervisor, "host_storage_set", {"key": "k", "data": full}) == b""
    assert keep(supervisor, "k", "x" * 972) == ""
    refused = keep(supervisor, "l", "x")
    assert "secret_bytes is 1029, the limit is 1000" in refused
    assert kept(supervisor, "l") is None


def test_values_and_keys_beyond_their_bounds_are_refused_in_words(supervise: Supervise) -> None:
    supervisor = supervise()
    assert keep(supervisor, "k", "\0" * 65536) == ""  # six times as long in JSON
    assert kept(supervisor, "k") == "\0" * 65536
    assert "secret_value_bytes is 65537, the limit is 65536" in keep(supervisor, "k", "x" * 65537)
    assert "malformed input" in keep(supervisor, "k", "x" * (1 << 20))
    assert "secret_key_bytes is 1025" in keep(supervisor, "k" * 1025, "x")
    assert kept(supervisor, "k") == "\0" * 65536


def test_without_permission_there_are_no_secrets_and_no_key(
    supervise: Supervise, workspace: Workspace, state: Path
) -> None:
    workspace.grant(PROBE, plugin_storage={"include": ["all"], "exclude": ["all"]})
    supervisor = supervise()
    for refused in (keep(supervisor, "k", VALUE), forget(supervisor, "k")):
        assert "plugin_storage" in refused
        assert "horse" not in refused
    assert kept(supervisor, "k") is None
    assert files_of_secrets(state) == []
    assert keep(supervisor, "k", VALUE, OTHER) == ""
    assert kept(supervisor, "k") is None


def test_a_supervisor_without_a_place_for_state_says_so(plugins: PluginFolder) -> None:
    from isoplug.supervisor import AllowAll

    with Supervisor(permissions=AllowAll()) as supervisor:
        supervisor.load_plugin(plugins.path / PROBE / "plugin.wasm")
        for refused in (keep(supervisor, "k", VALUE), forget(supervisor, "k")):
            assert refused.endswith("this supervisor keeps no secrets; give it state_dir= or a workspace")
        assert kept(supervisor, "k") is None


# --- what is to be seen elsewhere -----------------------------------------------------------------------------------


def test_a_supervisor_that_keeps_no_secrets_makes_no_key(supervise: Supervise, state: Path) -> None:
    supervisor = supervise()
    assert kept(supervisor, "k") is None
    assert forget(supervisor, "k") == ""
    supervisor.close()
    assert files_of_secrets(state) == []


def test_a_value_is_in_no_file_no_log_no_error_and_no_status(
    supervise: Supervise, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    supervisor = supervise()
    answers = [
        keep(supervisor, "k", VALUE),
        keep(supervisor, "x" * 2000, VALUE),
        keep(supervisor, "k", VALUE * 3000),
        *(
            ask(supervisor, "host_secret_set", payload).decode()
            for payload in (
                {"key": "k", "value": {"nested": VALUE}},
                {"key": "k", "value": [VALUE]},
                {"value": VALUE},
                json.dumps({"key": "k", "value": VALUE})[:-1],
                VALUE,
                json.dumps(VALUE),
                b'{"key":"k","value":"' + VALUE.encode() + b'\\ud800"}',
                b'{"key":"k","value":"' + VALUE.encode() + b'\xff"}',
            )
        ),
    ]
    assert answers[0] == ""
    assert all(answers[1:])
    (state / "secrets.key").rename(state / "elsewhere.key")
    with pytest.raises(SetupError) as caught:
        supervise()
    shown = "\n".join((*answers, caplog.text, str(caught.value), repr(supervisor.status()), repr(vars(supervisor))))
    key = (state / "elsewhere.key").read_text().strip()
    for secret in ("horse", key, base64.b64decode(key).hex(), repr(base64.b64decode(key))[2:-1]):
        assert secret not in shown
    for path in filter(Path.is_file, state.rglob("*")):
        assert b"horse" not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0, path
    assert kept(supervisor, "k") == VALUE  # the key is in memory


def test_a_secret_that_a_guest_knows_is_in_no_trap_and_no_crash(
    supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    supervisor = supervise()
    assert keep(supervisor, "k", VALUE) == ""
    assert kept(supervisor, "k") == VALUE
    for command in ("trap", "segv"):
        with pytest.raises(Exception, match=PROBE) as caught:
            supervisor.command(PROBE, command)
        assert "horse" not in str(caught.value)
        assert kept(supervisor, "k") == VALUE
    assert "horse" not in caplog.text


# --- the key --------------------------------------------------------------------------------------------------------


def test_a_wrong_key_stops_the_supervisor_and_says_what_to_do(supervise: Supervise, state: Path) -> None:
    supervisor = supervise()
    keep(supervisor, "k", VALUE)
    supervisor.close()
    right = (state / "secrets.key").read_bytes()
    (state / "secrets.key").write_bytes(base64.b64encode(bytes(32)))
    with pytest.raises(SetupError, match=r"is not the key of the secrets in .*put the right one back, or move"):
        supervise()
    (state / "secrets.key").unlink()
    with pytest.raises(SetupError, match="is gone"):
        supervise()
    assert not (state / "secrets.key").exists()
    (state / "secrets.key").write_bytes(right)
    with pytest.raises(SetupError, match="chmod 600"):
        supervise()
    (state / "secrets.key").chmod(0o600)
    assert kept(supervise(), "k") == VALUE


def test_a_key_that_cannot_be_used_fails_the_guests_call_and_only_the_log_says_where_it_is(
    supervise: Supervise, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise()
    (state / "secrets.key").write_bytes(b"short")
    (state / "secrets.key").chmod(0o600)
    refused = keep(supervisor, "k", VALUE)
    assert refused == "host_secret_set: the secrets cannot be used; the host's log says why"
    assert f"the key file '{state / 'secrets.key'}' holds no key" in caplog.text
    (state / "secrets.key").unlink()
    assert keep(supervisor, "k", VALUE) == ""


def test_the_key_may_lie_in_a_file_of_choice_but_not_within_plugins_reach(
    supervise: Supervise, tmp_path: Path, workspace: Workspace, plugins: PluginFolder, state: Path
) -> None:
    supervisor = supervise(config=Config(secrets=SecretsKey(key_file=tmp_path / "my.key")))
    assert keep(supervisor, "k", VALUE) == ""
    assert files_of_secrets(state) == ["secrets.sqlite3", "secrets.sqlite3-shm", "secrets.sqlite3-wal"]
    (tmp_path / "link").symlink_to(workspace.path)
    for folder in (workspace.path, workspace.path / "deep", plugins.path, tmp_path / "link"):
        with pytest.raises(SetupError, match=r"secrets.key_file .*within plugins' reach; move it outside"):
            supervise(config=Config(secrets=SecretsKey(key_file=folder / "my.key")))


def test_the_key_may_come_from_the_environment(
    supervise: Supervise, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(secrets=SecretsKey(key_source="env", key_env="TEST_KEY"))
    monkeypatch.setenv("TEST_KEY", base64.b64encode(bytes(32)).decode())
    supervisor = supervise(config=config)
    assert keep(supervisor, "k", VALUE) == ""
    supervisor.close()
    assert files_of_secrets(state) == ["secrets.sqlite3"]
    monkeypatch.setenv("TEST_KEY", base64.b64encode(bytes(31) + b"1").decode())
    with pytest.raises(SetupError, match="the environment variable TEST_KEY is not the key"):
        supervise(config=config)
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(SetupError, match="is gone: the environment variable TEST_KEY is not there"):
        supervise(config=config)


class Ring(keyring.backend.KeyringBackend):
    """A keyring as long as the test."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


def test_the_key_may_lie_in_the_keyring(supervise: Supervise, state: Path, ring: Ring) -> None:
    config = Config(secrets=SecretsKey(key_source="keyring"))
    supervisor = supervise(config=config)
    assert ring.entries == {}
    assert keep(supervisor, "k", VALUE) == ""
    supervisor.close()
    assert list(ring.entries) == [("isoplug", str(state))]
    assert files_of_secrets(state) == ["secrets.sqlite3"]
    supervisor = supervise(config=config)
    assert kept(supervisor, "k") == VALUE
    supervisor.close()
    ring.entries.clear()
    with pytest.raises(SetupError, match="is gone: the keyring's entry"):
        supervise(config=config)
    assert ring.entries == {}


# --- durability -----------------------------------------------------------------------------------------------------

HOST = """
import sys
from isoplug.supervisor import Supervisor
import bench
supervisor = Supervisor(plugins_dir=sys.argv[1], workspace=sys.argv[2], state_dir=sys.argv[3])
answer = bench.ask(supervisor, "host_secret_set", {"key": "k", "value": sys.argv[4]})
print("acknowledged" if answer == b"" else answer, flush=True)
sys.stdin.readline()
"""


def test_a_secret_that_was_acknowledged_survives_kill_9_of_the_supervisor(
    supervise: Supervise, plugins: PluginFolder, workspace: Workspace, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(plugins.path), str(workspace.path), str(state), VALUE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    )
    assert host.stdout is not None
    assert host.stdin is not None
    assert host.stdout.readline() == "acknowledged\n"
    host.send_signal(signal.SIGKILL)
    assert host.wait(timeout=60) == -signal.SIGKILL
    host.stdin.close()
    host.stdout.close()
    assert kept(supervise(), "k") == VALUE


# --- a host's own service -------------------------------------------------------------------------------------------


class InMemory:
    """All that a host has to write."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Any] = {}
        self.failure: type[Exception] | None = None

    def _fail(self, value: object) -> None:
        if self.failure is PermissionDenied:
            raise PermissionDenied(PROBE, f"not {value}")
        if self.failure is ResourceLimitExceeded:
            raise ResourceLimitExceeded(PROBE, f"too much {value}")
        if self.failure is not None:
            raise self.failure(f"cannot: {value!r}")

    def get(self, plugin_id: str, key: str) -> str | None:
        self._fail(self.values.get((plugin_id, key)))
        return self.values.get((plugin_id, key))

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        self._fail(value)
        self.values[plugin_id, key] = value

    def delete(self, plugin_id: str, key: str) -> None:
        self._fail(self.values.pop((plugin_id, key), None))

    def close(self) -> None:
        raise AssertionError("the host's to close")


def test_a_host_may_keep_secrets_itself(supervise: Supervise, state: Path) -> None:
    own = InMemory()
    supervisor = supervise(secrets=own)
    assert keep(supervisor, "k", VALUE) == ""
    assert own.values == {(PROBE, "k"): VALUE}
    assert kept(supervisor, "k") == VALUE
    assert forget(supervisor, "k") == ""
    assert kept(supervisor, "k") is None
    assert files_of_secrets(state) == []


@pytest.mark.parametrize("failure", [RuntimeError, ServiceError, PermissionDenied, ResourceLimitExceeded, KeyError])
def test_whatever_it_raises_no_value_gets_out_with_it(
    failure: type[Exception], supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    own = InMemory()
    supervisor = supervise(secrets=own)
    assert keep(supervisor, "k", VALUE) == ""
    own.failure = failure
    assert kept(supervisor, "k") is None
    answers = [keep(supervisor, "k", VALUE), forget(supervisor, "k")]
    assert answers == [
        f"{function}: cannot {doing} the secret: the host's service failed ({failure.__name__})"
        for function, doing in (("host_secret_set", "write"), ("host_secret_delete", "delete"))
    ]
    assert "horse" not in caplog.text
    lines = [record.getMessage() for record in caplog.records if "secrets.failed" in record.getMessage()]
    assert lines == [
        f"secrets.failed plugin={PROBE} doing={doing} kind={failure.__name__}" for doing in ("read", "write", "delete")
    ]


@pytest.mark.parametrize("answer", [b"bytes", 7, ["list"], object()], ids=lambda answer: type(answer).__name__)
def test_an_answer_that_is_no_text_is_no_answer(answer: Any, supervise: Supervise) -> None:
    own = InMemory()
    supervisor = supervise(secrets=own)
    own.values[PROBE, "k"] = answer
    assert kept(supervisor, "k") is None
