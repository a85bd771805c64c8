"""EncryptedSecrets with real files, real keys and real processes."""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from conftest import wait_until
from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor.secrets import MAX_VALUE_BYTES, EncryptedSecrets, EnvironmentKey, KeyFile, Secrets, encrypted

ROOMY = 1 << 20
SECRET = "correct horse battery staple"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def open_secrets(folder: Path) -> Iterator[Callable[[], EncryptedSecrets]]:
    """Opens the secrets of ``folder`` (again); closed after the test."""
    opened: list[EncryptedSecrets] = []

    def open_them() -> EncryptedSecrets:
        opened.append(EncryptedSecrets(folder / "secrets.sqlite3", KeyFile(folder / "secrets.key")))
        return opened[-1]

    yield open_them
    for secrets in opened:
        secrets.close()


Open = Callable[[], EncryptedSecrets]


def change(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "secrets.sqlite3")) as database:
        assert database.execute(statement, values).rowcount > 0
        database.commit()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- values -----------------------------------------------------------------------------------------------------------


def test_a_secret_comes_back_also_from_the_next_opener(open_secrets: Open) -> None:
    secrets: Secrets = open_secrets()
    for value in (SECRET, "", "\0", "ключ 🗝", "x" * MAX_VALUE_BYTES):
        secrets.set("p", "k", value, ROOMY)
        assert secrets.get("p", "k") == value
        assert open_secrets().get("p", "k") == value


def test_plugins_and_keys_are_kept_apart(open_secrets: Open) -> None:
    secrets = open_secrets()
    places = [("a", "b:c"), ("a:b", "c"), ("a", "b/c"), ("a", ""), ("ab", ":c"), ("a", "check"), (":isoplug", "k")]
    for plugin_id, key in places:
        secrets.set(plugin_id, key, f"{plugin_id}|{key}", ROOMY)
    for plugin_id, key in places:
        assert secrets.get(plugin_id, key) == f"{plugin_id}|{key}"


def test_a_deleted_secret_is_gone_and_deleting_what_is_not_there_is_fine(open_secrets: Open) -> None:
    secrets = open_secrets()
    secrets.delete("p", "k")
    secrets.set("p", "k", SECRET, ROOMY)
    secrets.delete("p", "k")
    secrets.delete("p", "k")
    assert secrets.get("p", "k") is None
    assert open_secrets().get("p", "k") is None


def test_until_the_first_secret_there_is_neither_file_nor_key(open_secrets: Open, folder: Path) -> None:
    secrets = open_secrets()
    assert secrets.get("p", "k") is None
    secrets.delete("p", "k")
    assert names(folder) == []
    secrets.set("p", "k", SECRET, ROOMY)
    secrets.close()
    assert names(folder) == ["secrets.key", "secrets.sqlite3"]


def test_what_another_process_keeps_first_is_found(open_secrets: Open) -> None:
    early = open_secrets()
    assert early.get("p", "k") is None
    open_secrets().set("p", "k", SECRET, ROOMY)
    assert early.get("p", "k") == SECRET


def test_no_file_holds_the_value_or_the_key_beside_it(open_secrets: Open, folder: Path) -> None:
    secrets = open_secrets()
    for number in range(50):
        secrets.set("p", f"key {number}", SECRET, ROOMY)
    key = KeyFile(folder / "secrets.key").load()
    assert key is not None
    for round_ in ("while it is open", "closed"):
        for path in folder.iterdir():
            content = path.read_bytes()
            assert SECRET.encode() not in content, (round_, path)
            assert base64.b64encode(SECRET.encode())[:-4] not in content
            if path.name != "secrets.key":
                assert key not in content
                assert base64.b64encode(key) not in content
            assert path.stat().st_mode & 0o077 == 0
        secrets.close()


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_quota_counts_each_value_and_28_bytes(open_secrets: Open) -> None:
    secrets = open_secrets()
    secrets.set("p", "a", "x" * 72, 200)
    secrets.set("p", "b", "x" * 72, 200)
    with pytest.raises(ResourceLimitExceeded) as caught:
        secrets.set("p", "c", "", 200)
    assert (caught.value.limit, caught.value.figure, caught.value.bound) == ("secret_bytes", 228, 200)
    assert secrets.get("p", "c") is None
    secrets.set("q", "c", "x" * 172, 200)


def test_values_and_keys_are_bounded(open_secrets: Open) -> None:
    secrets = open_secrets()
    for key, value, limit in (("k", "ü" * (MAX_VALUE_BYTES // 2) + "x", "value"), ("k" * 1025, "x", "key")):
        with pytest.raises(ResourceLimitExceeded) as caught:
            secrets.set("p", key, value, 1 << 30)
        assert caught.value.limit == f"secret_{limit}_bytes"
        assert secrets.get("p", key) is None


def test_the_number_of_keys_is_bounded(open_secrets: Open, folder: Path) -> None:
    secrets = open_secrets()
    secrets.set("p", "k", SECRET, ROOMY)
    change(folder, "UPDATE usage SET keys = 10000 WHERE plugin_id = 'p'")
    with pytest.raises(ResourceLimitExceeded) as caught:
        secrets.set("p", "new", SECRET, ROOMY)
    assert caught.value.limit == "secret_keys"
    secrets.set("p", "k", "replaced", ROOMY)


def test_lone_surrogates_are_typed_errors_that_do_not_carry_the_value(open_secrets: Open) -> None:
    secrets = open_secrets()
    with pytest.raises(ServiceError, match="surrogates") as caught:
        secrets.set("p", "k", SECRET + "\ud800", ROOMY)
    assert "horse" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(ServiceError, match="surrogates"):
        secrets.set("p", "\ud800", SECRET, ROOMY)
    assert secrets.get("p", "\ud800") is None


# --- rows that are not what was written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET value = (SELECT value FROM entries WHERE plugin_id = 'q') WHERE plugin_id = 'p'",
        "UPDATE entries SET plugin_id = 'p', key = 'k2' WHERE plugin_id = 'q'",
        "UPDATE entries SET value = (SELECT value FROM entries WHERE key = 'check') WHERE plugin_id = 'p'",
        "UPDATE entries SET value = zeroblob(40) WHERE plugin_id = 'p'",
        "UPDATE entries SET value = x'00' WHERE plugin_id = 'p'",
        "UPDATE entries SET value = x'' WHERE plugin_id = 'p'",
        "UPDATE entries SET value = 'text' WHERE plugin_id = 'p'",
        "UPDATE entries SET value = 4000000000 WHERE plugin_id = 'p'",
        "UPDATE entries SET value = substr(value, 1, length(value) - 1) WHERE plugin_id = 'p'",
    ],
)
def test_a_row_that_was_swapped_moved_or_damaged_is_an_error_that_names_the_key_only(
    statement: str, open_secrets: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = open_secrets()
    secrets.set("p", "k", "value of p", ROOMY)
    secrets.set("q", "k", "value of q", ROOMY)
    change(folder, statement)
    key = "k2" if "k2" in statement else "k"
    with pytest.raises(ServiceError) as caught:
        secrets.get("p", key)
    assert str(caught.value) == f"the secret '{key}' is damaged; set it again, or delete it"
    assert any(record.message == f"secret.damaged plugin=p key={key}" for record in caplog.records)
    secrets.set("p", key, "new", ROOMY)
    assert secrets.get("p", key) == "new"


# --- keys that are not the right one ----------------------------------------------------------------------------------


@pytest.fixture
def kept(open_secrets: Open, folder: Path) -> Path:
    """A folder in which a secret was kept."""
    secrets = open_secrets()
    secrets.set("p", "k", SECRET, ROOMY)
    secrets.close()
    return folder


def test_another_key_is_a_set_up_error_that_says_what_to_do_and_changes_nothing(kept: Path, open_secrets: Open) -> None:
    right = (kept / "secrets.key").read_bytes()
    (kept / "secrets.key").unlink()
    KeyFile(kept / "secrets.key").make()
    with pytest.raises(SetupError, match=r"is not the key of the secrets.*put the right one back, or move") as caught:
        open_secrets()
    assert str(kept / "secrets.key") in str(caught.value)
    assert right.decode().strip() not in str(caught.value)
    (kept / "secrets.key").write_bytes(right)
    assert open_secrets().get("p", "k") == SECRET


def test_a_key_that_vanished_is_a_set_up_error_and_no_new_one_is_made(kept: Path, open_secrets: Open) -> None:
    (kept / "secrets.key").rename(kept / "kept.key")
    with pytest.raises(SetupError, match=r"is gone: the key file .* is not there; put it back, or move"):
        open_secrets()
    assert not (kept / "secrets.key").exists()
    (kept / "kept.key").rename(kept / "secrets.key")
    assert open_secrets().get("p", "k") == SECRET


def test_a_key_that_vanishes_before_the_first_use_makes_calls_fail_without_telling_guests_where_it_was(
    open_secrets: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early = open_secrets()
    open_secrets().set("p", "k", SECRET, ROOMY)
    (folder / "secrets.key").unlink()
    for use in (
        lambda: early.get("p", "k"),
        lambda: early.set("p", "k", "x", ROOMY),
        lambda: early.delete("p", "k"),
    ):
        caplog.clear()
        with pytest.raises(ServiceError, match="the host's log says why") as caught:
            use()
        assert str(folder) not in str(caught.value)
        assert "is gone: the key file" in caplog.text
    assert not (folder / "secrets.key").exists()


def test_secrets_that_were_moved_away_start_empty_under_the_same_key(kept: Path, open_secrets: Open) -> None:
    key = (kept / "secrets.key").read_bytes()
    (kept / "secrets.sqlite3").unlink()
    secrets = open_secrets()
    assert secrets.get("p", "k") is None
    secrets.set("p", "k", "new", ROOMY)
    assert (kept / "secrets.key").read_bytes() == key


def test_a_file_that_is_no_database_is_a_set_up_error(kept: Path, open_secrets: Open) -> None:
    (kept / "secrets.sqlite3").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(SetupError, match=r"secret storage .*not a database"):
        open_secrets()


def test_two_openers_with_different_keys_cannot_both_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    for number in range(2):
        monkeypatch.setenv(f"KEY_{number}", base64.b64encode(bytes([number]) * 32).decode())
        stores.append(EncryptedSecrets(folder / "secrets.sqlite3", EnvironmentKey(f"KEY_{number}")))
    stores[0].set("p", "k", SECRET, ROOMY)
    with pytest.raises(ServiceError, match="the host's log says why"):
        stores[1].set("p", "k", "overwritten", ROOMY)
    assert stores[0].get("p", "k") == SECRET
    for store in stores:
        store.close()


def test_a_source_without_a_key_keeps_nothing_and_the_next_try_may_have_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    secrets = EncryptedSecrets(folder / "secrets.sqlite3", EnvironmentKey("KEY"))
    with pytest.raises(ServiceError, match="the host's log says why"):
        secrets.set("p", "k", SECRET, ROOMY)
    assert secrets.get("p", "k") is None
    monkeypatch.setenv("KEY", base64.b64encode(bytes(32)).decode())
    secrets.set("p", "k", SECRET, ROOMY)
    assert secrets.get("p", "k") == SECRET
    secrets.close()


# --- threads and processes --------------------------------------------------------------------------------------------

WRITER = """
import pathlib, sys
from isoplug.supervisor.secrets import EncryptedSecrets, KeyFile
folder, plugin = pathlib.Path(sys.argv[1]), sys.argv[2]
secrets = EncryptedSecrets(folder / "secrets.sqlite3", KeyFile(folder / "secrets.key"))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    secrets.set(plugin, str(number), f"value {number}", 1 << 30)
    print(number, flush=True)
"""


def start_writer(folder: Path, plugin_id: str, count: int) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), plugin_id, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()


def test_processes_that_keep_their_first_secret_at_once_share_one_key(folder: Path, open_secrets: Open) -> None:
    writers = [start_writer(folder, f"p{number}", 10) for number in range(3)]
    for writer in writers:
        go(writer)
    for writer in writers:
        assert len(writer.communicate(timeout=60)[0].splitlines()) == 10
        assert writer.returncode == 0
    secrets = open_secrets()
    for number in range(3):
        assert [secrets.get(f"p{number}", str(n)) for n in range(10)] == [f"value {n}" for n in range(10)]
    assert not [name for name in names(folder) if name.endswith(".tmp")]


def test_every_acknowledged_secret_survives_kill_9_also_the_first(folder: Path, open_secrets: Open) -> None:
    for round_, wanted in enumerate((1, 1, 30)):
        writer = start_writer(folder, f"p{round_}", 100_000)
        go(writer)
        assert writer.stdout is not None
        assert writer.stdin is not None
        acknowledged = [writer.stdout.readline() for _ in range(wanted)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split("\n")[:-1]
        assert writer.wait(timeout=10) == -signal.SIGKILL
        writer.stdin.close()
        writer.stdout.close()
        secrets = open_secrets()
        for number in range(len(acknowledged)):
            assert secrets.get(f"p{round_}", str(number)) == f"value {number}"
        secrets.close()
        if round_ == 0:  # once more with a first secret, and once with a key that is there
            for path in folder.iterdir():
                path.unlink()


def test_a_key_file_that_a_crash_left_without_secrets_is_used(folder: Path, open_secrets: Open) -> None:
    key = KeyFile(folder / "secrets.key").make()
    (folder / "secrets.sqlite3").touch()  # as far as SQLite had come
    secrets = open_secrets()
    assert secrets.get("p", "k") is None
    secrets.set("p", "k", SECRET, ROOMY)
    assert KeyFile(folder / "secrets.key").load() == key


def test_threads_may_have_their_first_secret_at_once(open_secrets: Open) -> None:
    secrets = open_secrets()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: secrets.set("p", str(n), f"value {n}", ROOMY), range(40)))
        assert list(threads.map(lambda n: secrets.get("p", str(n)), range(40))) == [f"value {n}" for n in range(40)]


class Waiting:
    """A key source like a keyring that waits for a person, who does not come before ``may_go``."""

    def __init__(self) -> None:
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def load(self) -> bytes | None:
        self.is_asked.set()
        self.may_go.wait()
        return bytes(32)

    def make(self) -> bytes:
        raise AssertionError


class Keeping(threading.Thread):
    """Keeps a secret in a thread of its own; ``error`` is what that raised."""

    def __init__(self, secrets: EncryptedSecrets, plugin_id: str) -> None:
        super().__init__()
        self.secrets, self.plugin_id, self.error = secrets, plugin_id, ""
        self.start()

    def run(self) -> None:
        try:
            self.secrets.set(self.plugin_id, "k", SECRET, ROOMY)
        except ServiceError as error:
            self.error = str(error)


def test_a_keyring_that_waits_for_a_person_holds_up_neither_other_calls_nor_closing_for_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted, "_PATIENCE_SECONDS", 0.05)
    source = Waiting()
    secrets = EncryptedSecrets(folder / "secrets.sqlite3", source)
    keeping = Keeping(secrets, "p")
    wait_until(source.is_asked.is_set)
    with pytest.raises(ServiceError, match="being opened; try again") as caught:
        secrets.get("p", "k")
    assert caught.value.retryable
    secrets.close()
    source.may_go.set()
    keeping.join()
    assert keeping.error == "the secrets are closed"


def test_while_one_makes_the_first_key_another_with_a_different_key_waits_and_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", base64.b64encode(b"1" * 32).decode())
    source = Waiting()
    first = EncryptedSecrets(folder / "secrets.sqlite3", source)
    second = EncryptedSecrets(folder / "secrets.sqlite3", EnvironmentKey("KEY"))
    early = Keeping(first, "p")
    wait_until(source.is_asked.is_set)
    late = Keeping(second, "q")
    late.join(0.1)  # time to do what it must not
    source.may_go.set()
    early.join()
    late.join()
    assert early.error == ""
    assert "the host's log says why" in late.error
    assert first.get("p", "k") == SECRET
    first.close()
    second.close()


def test_closing_twice_is_harmless_and_calls_afterwards_are_typed_errors(open_secrets: Open) -> None:
    for is_used in (False, True):
        secrets = open_secrets()
        if is_used:
            secrets.set("p", "k", SECRET, ROOMY)
        secrets.close()
        secrets.close()
        for use in (lambda s=secrets: s.get("p", "k"), lambda s=secrets: s.set("p", "k", "x", ROOMY)):
            with pytest.raises(ServiceError, match="closed"):
                use()


def test_the_encryption_is_not_imported_before_the_first_secret(folder: Path) -> None:
    code = f"""
import pathlib, sys
from isoplug.supervisor.secrets import EncryptedSecrets, KeyFile
folder = pathlib.Path({str(folder)!r})
secrets = EncryptedSecrets(folder / "secrets.sqlite3", KeyFile(folder / "secrets.key"))
assert secrets.get("p", "k") is None
assert "cryptography" not in sys.modules
assert "keyring" not in sys.modules
secrets.set("p", "k", "v", 1000)
assert "cryptography" in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)
