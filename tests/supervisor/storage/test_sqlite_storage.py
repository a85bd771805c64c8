"""SqliteStorage with real files, real processes and, for full disks, a real small file system."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor import database
from isoplug.supervisor.config import Limits
from isoplug.supervisor.storage import MAX_QUOTA_BYTES, SqliteStorage, Storage
from isoplug.supervisor.storage.bounds import MAX_KEY_BYTES, MAX_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOMY = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    made = SqliteStorage(path)
    yield made
    made.close()


def totals(path: Path) -> dict[str, tuple[int, int]]:
    """What is stored in truth, by plugin: bytes and keys."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT plugin_id, sum(length(value)), count(*) FROM entries GROUP BY plugin_id")
        return {plugin: (size, keys) for plugin, size, keys in rows}
    finally:
        connection.close()


def counted(path: Path) -> dict[str, tuple[int, int]]:
    """What the storage believes, by plugin, without those that have nothing."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT plugin_id, bytes, keys FROM usage WHERE keys <> 0 OR bytes <> 0")
        return {plugin: (size, keys) for plugin, size, keys in rows}
    finally:
        connection.close()


# --- values -------------------------------------------------------------------------------------------------


def test_it_is_a_storage(storage: SqliteStorage) -> None:
    as_protocol: Storage = storage
    assert as_protocol.get("p", "k") is None


def test_a_value_comes_back_also_from_the_next_opener(path: Path, storage: SqliteStorage) -> None:
    storage.set("p", "k", b"\x00\xff", ROOMY)
    assert storage.get("p", "k") == b"\x00\xff"
    storage.close()
    again = SqliteStorage(path)
    assert again.get("p", "k") == b"\x00\xff"
    again.close()


def test_an_empty_value_deletes(storage: SqliteStorage) -> None:
    storage.set("p", "k", b"x", ROOMY)
    storage.set("p", "k", b"", ROOMY)
    assert storage.get("p", "k") is None
    storage.set("p", "never there", b"", 0)


def test_plugins_and_keys_that_concatenate_alike_stay_apart(storage: SqliteStorage) -> None:
    for plugin, key in (("a", "b:c"), ("a:b", "c"), ("a", "b/c"), ("a", "b_c"), ("a", "B_C"), ("a", "b_c\0")):
        storage.set(plugin, key, f"{plugin}|{key}".encode(), ROOMY)
    for plugin, key in (("a", "b:c"), ("a:b", "c"), ("a", "b/c"), ("a", "b_c"), ("a", "B_C"), ("a", "b_c\0")):
        assert storage.get(plugin, key) == f"{plugin}|{key}".encode()


# --- bounds -------------------------------------------------------------------------------------------------


def test_the_total_of_a_plugin_meets_the_quota_exactly_and_not_one_byte_more(storage: SqliteStorage) -> None:
    storage.set("p", "a", b"x" * 60, 100)
    storage.set("p", "b", b"x" * 40, 100)
    with pytest.raises(ResourceLimitExceeded) as caught:
        storage.set("p", "c", b"x", 100)
    assert (caught.value.limit, caught.value.figure, caught.value.bound) == ("storage_bytes", 101, 100)
    assert caught.value.plugin_id == "p"
    assert storage.get("p", "c") is None
    storage.set("q", "c", b"x" * 100, 100)


def test_a_replacement_counts_the_difference(storage: SqliteStorage) -> None:
    storage.set("p", "a", b"x" * 90, 100)
    storage.set("p", "a", b"y" * 100, 100)
    with pytest.raises(ResourceLimitExceeded):
        storage.set("p", "a", b"z" * 101, 100)
    assert storage.get("p", "a") == b"y" * 100


def test_under_a_lowered_quota_shrinking_and_deleting_work_and_growing_does_not(
    storage: SqliteStorage,
) -> None:
    storage.set("p", "a", b"x" * 100, 1000)
    storage.set("p", "b", b"x" * 100, 1000)
    storage.set("p", "a", b"x" * 99, 10)
    with pytest.raises(ResourceLimitExceeded):
        storage.set("p", "a", b"x" * 100, 10)
    with pytest.raises(ResourceLimitExceeded):
        storage.set("p", "c", b"x", 10)
    storage.set("p", "b", b"", 10)
    storage.set("p", "a", b"x" * 10, 10)


@pytest.mark.parametrize("quota", [0, -5])
def test_a_quota_of_nothing_stores_nothing(storage: SqliteStorage, quota: int) -> None:
    with pytest.raises(ResourceLimitExceeded) as caught:
        storage.set("p", "a", b"x", quota)
    assert caught.value.bound == 0


def test_no_quota_is_higher_than_the_maximum(storage: SqliteStorage, path: Path) -> None:
    connection = sqlite3.connect(path)  # a gibibyte is not written for this: the count is
    connection.execute("INSERT INTO usage VALUES ('p', ?, 1)", (MAX_QUOTA_BYTES,))
    connection.commit()
    connection.close()
    with pytest.raises(ResourceLimitExceeded) as caught:
        storage.set("p", "a", b"x", 1 << 40)
    assert caught.value.bound == MAX_QUOTA_BYTES


def test_the_default_quota_is_a_mebibyte_and_may_be_as_high_as_the_maximum() -> None:
    assert Limits().storage_quota == 1 << 20
    assert Limits(storage_quota=MAX_QUOTA_BYTES).storage_quota == MAX_QUOTA_BYTES


def test_keys_are_bounded_in_utf8_bytes(storage: SqliteStorage) -> None:
    storage.set("p", "ü" * (MAX_KEY_BYTES // 2), b"x", ROOMY)
    assert storage.get("p", "ü" * (MAX_KEY_BYTES // 2)) == b"x"
    with pytest.raises(ResourceLimitExceeded) as caught:
        storage.set("p", "ü" * (MAX_KEY_BYTES // 2) + "a", b"x", ROOMY)
    assert (caught.value.limit, caught.value.figure) == ("storage_key_bytes", MAX_KEY_BYTES + 1)
    assert storage.get("p", "k" * (MAX_KEY_BYTES + 1)) is None


def test_a_key_with_a_lone_surrogate_is_a_typed_error(storage: SqliteStorage) -> None:
    with pytest.raises(ServiceError, match="surrogates"):
        storage.set("p", "\ud800", b"x", ROOMY)
    assert storage.get("p", "\ud800") is None


def test_the_number_of_keys_is_bounded_and_the_bound_still_allows_to_replace_and_delete(
    storage: SqliteStorage, path: Path
) -> None:
    connection = sqlite3.connect(path)
    connection.executemany("INSERT INTO entries VALUES ('p', ?, x'00')", [(str(n),) for n in range(MAX_KEYS)])
    connection.execute("INSERT INTO usage VALUES ('p', ?, ?)", (MAX_KEYS, MAX_KEYS))
    connection.commit()
    connection.close()
    with pytest.raises(ResourceLimitExceeded) as caught:
        storage.set("p", "new", b"x", ROOMY)
    assert (caught.value.limit, caught.value.figure, caught.value.bound) == (
        "storage_keys",
        MAX_KEYS + 1,
        MAX_KEYS,
    )
    storage.set("p", "0", b"xx", ROOMY)
    storage.set("p", "1", b"", ROOMY)
    storage.set("p", "new", b"x", ROOMY)


operations = st.lists(
    st.tuples(
        st.sampled_from(["p", "q"]),
        st.sampled_from(["", "a", "b", "c\0d", "\U0001f600"]),
        st.binary(max_size=40),
        st.sampled_from([0, 30, 50, 100]),
    ),
    max_size=30,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(operations)
def test_it_behaves_like_a_dictionary_with_a_quota(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes, int]]
) -> None:
    path = tmp_path_factory.mktemp("model") / "s.db"
    storage = SqliteStorage(path)
    model: dict[tuple[str, str], bytes] = {}
    for plugin, key, value, quota in steps:
        used = sum(len(v) for (p, _), v in model.items() if p == plugin)
        after = used - len(model.get((plugin, key), b"")) + len(value)
        refused = bool(value) and after > quota and after >= used
        if refused:
            with pytest.raises(ResourceLimitExceeded) as caught:
                storage.set(plugin, key, value, quota)
            assert (caught.value.figure, caught.value.bound) == (after, quota)
        else:
            storage.set(plugin, key, value, quota)
            model[plugin, key] = value
        assert storage.get(plugin, key) == (model.get((plugin, key)) or None)
    assert totals(path) == counted(path)
    storage.close()


# --- threads and processes ----------------------------------------------------------------------------------

WRITER = """
import sys, pathlib
from isoplug.supervisor.storage import SqliteStorage
from isoplug.shared.errors import ResourceLimitExceeded
path, plugin, count, size, quota = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
storage = SqliteStorage(pathlib.Path(path))
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    try:
        storage.set(plugin, f"{sys.argv[6]}{number}", b"x" * size, quota)
    except ResourceLimitExceeded:
        continue
    print(number, flush=True)
"""


def start_writer(path: Path, plugin: str, count: int, size: int, quota: int, prefix: str) -> subprocess.Popen[str]:
    arguments = [str(path), plugin, str(count), str(size), str(quota), prefix]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def release(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("go\n")
    writer.stdin.flush()


def test_threads_together_cannot_exceed_the_quota(storage: SqliteStorage, path: Path) -> None:
    accepted = []

    def fill(thread: int) -> None:
        for number in range(20):
            try:
                storage.set("p", f"{thread}.{number}", b"x" * 10, 300)
            except ResourceLimitExceeded:
                continue
            accepted.append((thread, number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(8)))
    assert len(accepted) == 30
    assert totals(path) == counted(path) == {"p": (300, 30)}


def test_two_processes_at_the_quota_at_once_cannot_exceed_it(path: Path) -> None:
    SqliteStorage(path).close()
    writers = [start_writer(path, "p", 60, 10, 500, prefix) for prefix in "ab"]
    for writer in writers:
        release(writer)
    accepted = sum(len(writer.communicate(timeout=30)[0].splitlines()) for writer in writers)
    assert [writer.returncode for writer in writers] == [0, 0]  # they waited for each other, nobody met an error
    assert accepted == 50
    assert totals(path) == counted(path) == {"p": (500, 50)}


def test_several_processes_may_open_a_new_file_at_once(path: Path) -> None:
    code = "import sys,pathlib; from isoplug.supervisor.storage import SqliteStorage as S; sys.stdin.read(); "
    code += "s = S(pathlib.Path(sys.argv[1])); s.set('p', sys.argv[2], b'x', 100); s.close()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    openers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], stdin=subprocess.PIPE, env=environment)
        for n in range(4)
    ]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.close()
    assert [opener.wait(timeout=30) for opener in openers] == [0] * 4
    assert totals(path) == {"p": (4, 4)}


def test_every_acknowledged_write_survives_kill_9_of_the_writer(path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for round_number in range(4):
        prefix = f"{round_number}."
        writer = start_writer(path, "p", 100_000, 2000, 1 << 30, prefix)  # more than the pipe takes: it does not end
        release(writer)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()] if round_number else []  # and once perhaps before the first
        time.sleep(0.02 + 0.07 * round_number)
        writer.send_signal(signal.SIGKILL)
        # A number without its line end was cut by the kill: the write had returned all the same.
        lines += writer.stdout.read().split("\n")[:-1]
        assert writer.wait(timeout=10) == -signal.SIGKILL
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdout.close()
        acknowledged[prefix] = len(lines)
        storage = SqliteStorage(path)
        for number in range(len(lines)):
            assert storage.get("p", f"{prefix}{number}") == b"x" * 2000
        storage.close()
        assert totals(path) == counted(path)
    assert sum(acknowledged.values()) > 0


def test_a_reader_is_not_held_up_by_another_process_that_writes(storage: SqliteStorage, path: Path) -> None:
    storage.set("p", "k", b"old", ROOMY)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM entries")
    assert storage.get("p", "k") == b"old"
    other.execute("ROLLBACK")
    other.close()


def test_a_lock_that_is_never_released_is_a_retryable_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    storage = SqliteStorage(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceError, match="locked") as caught:
        storage.set("p", "k", b"x", ROOMY)
    assert caught.value.retryable
    other.execute("ROLLBACK")
    storage.set("p", "k", b"x", ROOMY)
    other.close()
    storage.close()


def test_a_second_opener_in_this_process_does_not_drop_the_locks_of_the_first(path: Path) -> None:
    # POSIX locks go when any descriptor of the file is closed; another process would then take the file for
    # unused, and its close would delete the log that the first opener is writing.
    first = SqliteStorage(path)
    first.set("p", "k", b"1", ROOMY)
    SqliteStorage(path).close()
    SqliteStorage(path).close()
    code = "import sys, pathlib; from isoplug.supervisor.storage import SqliteStorage as S; "
    code += "s = S(pathlib.Path(sys.argv[1])); s.set('p', 'other', b'2', 100); s.close()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)
    assert path.with_name("storage.db-wal").exists()
    first.set("p", "k", b"3", ROOMY)
    first.close()
    again = SqliteStorage(path)
    assert (again.get("p", "k"), again.get("p", "other")) == (b"3", b"2")
    again.close()


def test_after_a_fork_the_child_gets_an_error_instead_of_a_damaged_file(storage: SqliteStorage) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            storage.get("p", "k")
        except ServiceError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- closing ------------------------------------------------------------------------------------------------


def test_closing_twice_is_harmless_and_calls_afterwards_are_typed_errors(storage: SqliteStorage) -> None:
    storage.close()
    storage.close()
    with pytest.raises(ServiceError, match="closed"):
        storage.get("p", "k")
    with pytest.raises(ServiceError, match="closed"):
        storage.set("p", "k", b"x", ROOMY)


def test_closing_while_threads_write_loses_nothing_that_was_acknowledged(path: Path) -> None:
    storage = SqliteStorage(path)
    done: list[int] = []

    def write() -> None:
        for number in range(10_000):
            try:
                storage.set("p", str(number), b"x", ROOMY)
            except ServiceError:
                return
            done.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.05)
    storage.close()
    thread.join(60)
    again = SqliteStorage(path)
    assert all(again.get("p", str(number)) == b"x" for number in done)
    again.close()


# --- files that cannot be used ------------------------------------------------------------------------------


def test_the_file_and_those_beside_it_are_private(path: Path) -> None:
    old = os.umask(0)
    try:
        storage = SqliteStorage(path)
        storage.set("p", "k", b"x", ROOMY)
    finally:
        os.umask(old)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert modes == {"storage.db": 0o600, "storage.db-wal": 0o600, "storage.db-shm": 0o600}
    storage.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at" * 100, b"SQLite format 3\0junk"]
)
def test_a_file_that_is_no_database_is_refused_with_advice_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"not a database.*move it away"):
        SqliteStorage(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_storage(path: Path) -> None:
    path.touch()
    storage = SqliteStorage(path)
    storage.set("p", "k", b"x", ROOMY)
    storage.close()


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(SetupError, match="something else"):
        SqliteStorage(path)


def test_a_newer_schema_is_refused_and_says_to_update(path: Path) -> None:
    SqliteStorage(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SetupError, match=r"newer isoplug \(schema 99.*update isoplug"):
        SqliteStorage(path)


def test_a_missing_folder_a_folder_and_a_fifo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="state_dir="):
        SqliteStorage(tmp_path / "missing" / "s.db")
    with pytest.raises(SetupError, match="not a regular file"):
        SqliteStorage(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SetupError, match="not a regular file"):
        SqliteStorage(tmp_path / "fifo")


def test_a_relative_name_with_a_meaning_for_sqlite_is_just_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    storage = SqliteStorage(Path(":memory:"))
    storage.set("p", "k", b"x", ROOMY)
    storage.close()
    assert (tmp_path / ":memory:").stat().st_size > 0


def read_all(path: Path) -> None:
    storage = SqliteStorage(path)
    try:
        for number in range(50):
            storage.get("p", str(number))
    finally:
        storage.close()


def test_damage_at_run_time_is_a_service_error_that_does_not_tell_where_the_host_keeps_the_file(
    path: Path, storage: SqliteStorage
) -> None:
    for number in range(50):
        storage.set("p", str(number), b"x" * 3000, ROOMY)
    storage.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises((ServiceError, SetupError)) as caught:  # at once or when it is read
        read_all(path)
    if isinstance(caught.value, ServiceError):
        assert str(path) not in str(caught.value)
        assert not caught.value.retryable


# --- disks that are full or read-only -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, mounted: Callable[..., None]) -> Path:
    """A file system of one mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted(place, "-t", "tmpfs", "-o", "size=1m")
    return place


def test_a_full_disk_is_a_typed_error_and_what_was_stored_stays(small_disk: Path) -> None:
    storage = SqliteStorage(small_disk / "s.db")
    stored = 0

    def fill() -> None:
        nonlocal stored
        for number in range(1000):
            storage.set("p", str(number), b"x" * 50_000, 1 << 30)
            stored += 1

    with pytest.raises(ServiceError, match="free space") as caught:
        fill()
    assert caught.value.plugin_id == "p"
    assert stored > 2
    for number in range(stored):
        assert storage.get("p", str(number)) == b"x" * 50_000
    storage.close()
    again = SqliteStorage(small_disk / "s.db")
    assert again.get("p", "0") == b"x" * 50_000
    again.close()
    assert totals(small_disk / "s.db") == counted(small_disk / "s.db") == {"p": (stored * 50_000, stored)}


def test_a_read_only_disk_is_a_set_up_error(small_disk: Path) -> None:
    SqliteStorage(small_disk / "s.db").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SetupError, match=r"writable|state_dir="):
        SqliteStorage(small_disk / "s.db")


def test_a_write_that_the_kernel_refuses_is_a_typed_error_and_the_next_small_one_works(path: Path) -> None:
    code = """
import pathlib, resource, signal, sys
from isoplug.supervisor.storage import SqliteStorage
from isoplug.shared.errors import ServiceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage = SqliteStorage(pathlib.Path(sys.argv[1]))
storage.set("p", "a", b"x", 1 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    storage.set("p", "b", b"x" * 500_000, 1 << 20)
except ServiceError as error:
    print(error)
storage.set("p", "c", b"y", 1 << 20)
print(storage.get("p", "a"), storage.get("p", "b"), storage.get("p", "c"))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=True,
    )
    first, second = run.stdout.splitlines()
    assert first.startswith("cannot write the plugin storage: ")
    assert second == "b'x' None b'y'"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_schema_that_is_no_text_any_more_is_a_set_up_error(path: Path) -> None:
    SqliteStorage(path).close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"sqlite_autoindex_entries_1", b"sqlite_\x97utoindex_entries_1"))
    with pytest.raises(SetupError, match="damaged"):
        SqliteStorage(path)


def test_calls_behind_one_that_waits_for_another_process_do_not_wait_one_after_the_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 2.0)
    storage = SqliteStorage(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def attempt(key: str) -> bool:
        with pytest.raises(ServiceError) as caught:
            storage.set("p", key, b"x", 1 << 20)
        return caught.value.retryable

    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(attempt, "abcdefgh"))
    assert time.monotonic() - began < 10.0
    other.close()
    storage.set("p", "a", b"x", 1 << 20)
    storage.close()
