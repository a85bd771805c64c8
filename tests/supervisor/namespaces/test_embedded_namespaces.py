"""EmbeddedNamespaces with real files, real processes and, for full disks, a real small file system."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import MAX_TIMEOUT_SECONDS, Deadline
from isoplug.supervisor.namespaces import Audience, EmbeddedNamespaces, NamespaceProvider, NewObject, rows

MIB = 1 << 20
ROOMY = 64 * MIB


def caller(plugin_id: str = "p", seconds: float = MAX_TIMEOUT_SECONDS) -> Caller:
    def nothing_to_watch() -> int:
        raise AssertionError("what is on this machine's disk is not waited for")

    return Caller(plugin_id, Deadline.after(seconds), nothing_to_watch)


P, Q = caller("p"), caller("q")  # made once, when the tests are collected: may be minutes before they run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(0o700)
    return path


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., EmbeddedNamespaces]]:
    made: list[EmbeddedNamespaces] = []

    def opened(quota_bytes: int = ROOMY) -> EmbeddedNamespaces:
        made.append(EmbeddedNamespaces(folder, quota_bytes))
        return made[-1]

    yield opened
    for namespaces in made:
        namespaces.close()


@pytest.fixture
def namespaces(opened: Callable[..., EmbeddedNamespaces]) -> EmbeddedNamespaces:
    return opened()


@pytest.fixture
def ns(namespaces: EmbeddedNamespaces) -> str:
    return namespaces.create(P, None).id


def new(key: str, content: bytes = b"x", audience: str | None = None) -> NewObject:
    return NewObject(key, content, "text/plain", audience)


def content(namespaces: EmbeddedNamespaces, ns: str, key: str) -> bytes:
    return namespaces.get_object(P, ns, key, ROOMY).content


def keys(namespaces: EmbeddedNamespaces, ns: str, **asked: Any) -> list[str]:
    return [info.key for info in namespaces.list_objects(P, ns, **asked)]


def selected(folder: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "namespaces.sqlite3")) as database, database:
        return database.execute(statement).fetchall()


def files(folder: Path) -> set[str]:
    return set(os.listdir(folder / "objects"))


def assert_consistent(folder: Path) -> None:
    """Files are those that rows name, and ``usage`` is what the rows cost."""
    assert files(folder) == {name for (name,) in selected(folder, "SELECT file FROM objects")}
    cost: dict[str, int] = {}
    for plugin, *texts in (
        *selected(folder, "SELECT plugin_id, id, metadata FROM namespaces"),
        *selected(folder, "SELECT plugin_id, name, gates FROM audiences"),
        *selected(folder, "SELECT plugin_id, key, mime_type, audience FROM objects"),
    ):
        cost[plugin] = cost.get(plugin, 0) + 128 + sum(len((text or "").encode()) for text in texts)
    for plugin, size_bytes in selected(folder, "SELECT plugin_id, sum(size_bytes) FROM objects GROUP BY 1"):
        cost[plugin] += size_bytes
    counts = dict(selected(folder, "SELECT plugin_id, count(*) FROM objects GROUP BY 1"))
    assert {plugin: (cost[plugin], counts.get(plugin, 0)) for plugin in cost} == {
        plugin: (used, objects) for plugin, used, objects in selected(folder, "SELECT * FROM usage")
    }


# --- namespaces -----------------------------------------------------------------------------------------------------


def test_it_is_a_provider_on_this_machine(namespaces: EmbeddedNamespaces) -> None:
    as_protocol: NamespaceProvider = namespaces
    assert as_protocol.host("p") is None


def test_namespaces_have_ids_that_nobody_can_foresee_and_keep_their_metadata(
    namespaces: EmbeddedNamespaces, opened: Callable[..., EmbeddedNamespaces]
) -> None:
    first = namespaces.create(P, {"type": "workspace", "ü": [1, None]})
    second = namespaces.create(P, None)
    assert first.id != second.id
    assert len(first.id) == 36
    assert abs(first.created_at - time.time()) < 100
    assert list(namespaces.list(P)) == [second, first]
    namespaces.close()
    assert list(opened().list(P)) == [second, first]


def test_plugins_do_not_see_each_others_namespaces(namespaces: EmbeddedNamespaces, ns: str) -> None:
    namespaces.put_object(P, ns, new("k"))
    assert list(namespaces.list(Q)) == []
    refused: list[Callable[[], object]] = [
        lambda: namespaces.get_object(Q, ns, "k", ROOMY),
        lambda: namespaces.get_objects(Q, ns, ["k"], ROOMY),
        lambda: namespaces.put_object(Q, ns, new("k")),
        lambda: namespaces.delete_object(Q, ns, "k"),
        lambda: namespaces.list_objects(Q, ns),
        lambda: namespaces.set_audience(Q, ns, Audience("a", ())),
        lambda: namespaces.list_audiences(Q, ns),
        lambda: namespaces.delete_audience(Q, ns, "a"),
    ]
    for ask in refused:
        with pytest.raises(ServiceError, match="has no namespace"):
            ask()
    assert content(namespaces, ns, "k") == b"x"


def test_the_number_of_namespaces_is_bounded(namespaces: EmbeddedNamespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_NAMESPACES", 2)
    namespaces.create(P, None)
    namespaces.create(P, None)
    namespaces.create(Q, None)
    with pytest.raises(ResourceLimitExceeded, match="number of namespaces is 3, the limit is 2"):
        namespaces.create(P, None)


# --- objects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [b"", b"\x00\xff\r\n", b"x" * (3 * MIB)])
def test_an_object_comes_back_also_from_the_next_opener(
    namespaces: EmbeddedNamespaces, ns: str, opened: Callable[..., EmbeddedNamespaces], folder: Path, stored: bytes
) -> None:
    namespaces.put_object(P, ns, NewObject("a/ü.bin", stored, "image/png", "friends"))
    namespaces.close()
    again = opened()
    found = again.get_object(P, ns, "a/ü.bin", ROOMY)
    assert (found.content, found.mime_type) == (stored, "image/png")
    (info,) = again.list_objects(P, ns)
    assert (info.key, info.namespace_id, info.audience, info.mime_type) == ("a/ü.bin", ns, "friends", "image/png")
    assert (info.size_bytes, info.content_hash) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert info.updated_at is not None
    assert abs(info.updated_at - time.time()) < 100
    assert_consistent(folder)


def test_a_replaced_or_deleted_object_leaves_no_file(namespaces: EmbeddedNamespaces, ns: str, folder: Path) -> None:
    namespaces.put_object(P, ns, new("k", b"old", "a"))
    namespaces.put_object(P, ns, new("k", b"newer"))
    assert content(namespaces, ns, "k") == b"newer"
    assert_consistent(folder)
    namespaces.delete_object(P, ns, "k")
    assert files(folder) == set()
    assert_consistent(folder)
    namespaces.delete_object(P, ns, "k")  # it is gone already
    with pytest.raises(ServiceError, match="object 'k' not found"):
        content(namespaces, ns, "k")


def test_everything_is_private_to_this_user(namespaces: EmbeddedNamespaces, ns: str, folder: Path) -> None:
    namespaces.put_object(P, ns, new("k"))
    for path in (folder / "namespaces.sqlite3", *(folder / "objects").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "objects").stat().st_mode) == 0o700


def test_listings_are_by_key_with_prefix_limit_and_offset(namespaces: EmbeddedNamespaces, ns: str) -> None:
    names = ["b", "a/2", "a/10", "a", "A", "a_", "a%", "a*", "aü", "a\U0010ffff", "a\U0010ffffb", "\ud7ffx", "\ue000"]
    for name in names:
        namespaces.put_object(P, ns, new(name))
    ordered = sorted(names, key=str.encode)
    assert keys(namespaces, ns) == ordered
    for prefix in ("", "a", "a/", "a_", "a%", "a*", "a\U0010ffff", "\U0010ffff", "\ud7ff", "z", "a/10"):
        assert keys(namespaces, ns, prefix=prefix) == [name for name in ordered if name.startswith(prefix)]
    assert keys(namespaces, ns, limit=2, offset=3) == ordered[3:5]
    assert keys(namespaces, ns, prefix="a/", limit=1, offset=1) == ["a/2"]
    assert keys(namespaces, ns, limit=0) == []
    assert keys(namespaces, ns, offset=2**32 - 1) == []


@pytest.mark.parametrize("limit", [None, 12_001, 2**32 - 1])
def test_a_listing_is_never_shorter_than_what_was_asked_for(
    namespaces: EmbeddedNamespaces, ns: str, folder: Path, limit: int | None
) -> None:
    """A guest that finds an object missing takes it for deleted, and deletes its own copy."""
    namespaces.put_object(P, ns, new("k"))
    with closing(sqlite3.connect(folder / "namespaces.sqlite3")) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(objects)")]
        values = ", ".join("'k' || n" if column == "key" else column for column in columns)
        count = "WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 12000) "
        database.execute(f"{count} INSERT INTO objects SELECT {values} FROM objects, count")
    assert len(keys(namespaces, ns, limit=limit)) == 12_001


def test_a_batch_has_what_is_there_and_a_reason_for_what_is_not(namespaces: EmbeddedNamespaces, ns: str) -> None:
    namespaces.put_object(P, ns, new("a", b"1"))
    namespaces.put_object(P, ns, new("c", b"3"))
    batch = namespaces.get_objects(P, ns, ["c", "b", "a"], ROOMY)
    assert {key: found.content for key, found in batch.objects.items()} == {"c": b"3", "a": b"1"}
    assert list(batch.errors) == ["b"]
    assert "object 'b' not found" in batch.errors["b"]


def test_a_batch_holds_no_more_bytes_than_there_is_room_for(namespaces: EmbeddedNamespaces, ns: str) -> None:
    for name, size_bytes in (("a", 60), ("b", 50), ("c", 40)):
        namespaces.put_object(P, ns, new(name, b"x" * size_bytes))
    batch = namespaces.get_objects(P, ns, ["a", "b", "c"], 100)
    assert list(batch.objects) == ["a", "c"]
    assert "is 50, the limit is 40; ask for fewer" in batch.errors["b"]
    with pytest.raises(ResourceLimitExceeded, match="is 60, the limit is 59"):
        namespaces.get_object(P, ns, "a", 59)


def test_a_batch_ends_at_its_deadline(namespaces: EmbeddedNamespaces, ns: str) -> None:
    late = caller(seconds=0.001)
    time.sleep(0.002)
    with pytest.raises(ServiceError, match="time is up"):
        namespaces.get_objects(late, ns, ["a"], ROOMY)
    with pytest.raises(ServiceError, match="time is up"):
        namespaces.get_object(late, ns, "a", ROOMY)


def test_a_file_that_vanished_or_changed_is_an_error_and_never_other_content(
    namespaces: EmbeddedNamespaces, ns: str, folder: Path
) -> None:
    for name in ("gone", "changed", "longer"):
        namespaces.put_object(P, ns, new(name, b"content"))
    stored = dict(selected(folder, "SELECT key, file FROM objects"))
    (folder / "objects" / stored["gone"]).unlink()
    (folder / "objects" / stored["changed"]).write_bytes(b"c0ntent")
    (folder / "objects" / stored["longer"]).write_bytes(b"content, and more")
    for name, words in (("gone", "missing"), ("changed", "damaged"), ("longer", "cannot read")):
        with pytest.raises(ServiceError, match=words) as caught:
            content(namespaces, ns, name)
        assert str(folder) not in str(caught.value)
    assert set(namespaces.get_objects(P, ns, list(stored), ROOMY).errors) == set(stored)


@pytest.mark.parametrize("damage", ["file = 1.5", "file = 'a' || char(0)", "size_bytes = 'many'", "size_bytes = -5"])
def test_a_damaged_row_costs_its_object_and_no_other(
    damage: str, namespaces: EmbeddedNamespaces, ns: str, folder: Path
) -> None:
    for key in ("damaged", "whole"):
        namespaces.put_object(P, ns, new(key, b"content"))
    selected(folder, f"UPDATE objects SET {damage} WHERE key = 'damaged'")
    found = namespaces.get_objects(P, ns, ["damaged", "whole"], ROOMY)
    assert list(found.objects) == ["whole"]
    assert list(found.errors) == ["damaged"]


def test_an_object_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(
    namespaces: EmbeddedNamespaces, ns: str, opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    namespaces.put_object(P, ns, new("k", b"0" * 5000))
    other, stop = opened(), threading.Event()
    replaced, seen = 0, set()

    def replace() -> None:
        nonlocal replaced
        while not stop.is_set():
            replaced += 1
            other.put_object(P, ns, new("k", str(replaced % 10).encode() * 5000))

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while writer.is_alive() and (replaced < 100 or len(seen) < 2):
            found = content(namespaces, ns, "k")
            assert len(found) == 5000
            seen |= set(found)
            assert len(set(found)) == 1
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1
    assert_consistent(folder)


# --- audiences ------------------------------------------------------------------------------------------------------


def test_audiences_are_made_replaced_listed_and_deleted(namespaces: EmbeddedNamespaces, ns: str, folder: Path) -> None:
    namespaces.set_audience(P, ns, Audience("public", ()))
    namespaces.set_audience(P, ns, Audience("friends", ({"kind": "link"},)))
    namespaces.set_audience(P, ns, Audience("friends", ({"kind": "link"}, {"kind": "new", "x": 1})))
    assert list(namespaces.list_audiences(P, ns)) == ["friends", "public"]
    assert_consistent(folder)
    ((gates,),) = selected(folder, "SELECT gates FROM audiences WHERE name = 'friends'")
    assert json.loads(gates) == [{"kind": "link"}, {"kind": "new", "x": 1}]
    namespaces.delete_audience(P, ns, "friends")
    namespaces.delete_audience(P, ns, "friends")  # it is gone already
    assert list(namespaces.list_audiences(P, ns)) == ["public"]
    assert_consistent(folder)


def test_passwords_of_gates_are_not_written_to_the_disk(namespaces: EmbeddedNamespaces, ns: str, folder: Path) -> None:
    namespaces.set_audience(P, ns, Audience("a", ({"kind": "password", "password": "sesame-street"},)))
    assert "sesame" not in repr(Audience("a", ({"kind": "password", "password": "sesame-street"},)))
    assert selected(folder, "SELECT gates FROM audiences") == [('[{"kind":"password"}]',)]
    for path in folder.iterdir():
        if path.is_file():
            assert b"sesame" not in path.read_bytes()


def test_objects_of_a_deleted_audience_stay_and_become_private(
    namespaces: EmbeddedNamespaces, ns: str, folder: Path
) -> None:
    namespaces.set_audience(P, ns, Audience("friends", ()))
    namespaces.put_object(P, ns, new("a", b"1", "friends"))
    namespaces.put_object(P, ns, new("b", b"2", "family"))
    namespaces.delete_audience(P, ns, "friends")
    assert {info.key: info.audience for info in namespaces.list_objects(P, ns)} == {"a": None, "b": "family"}
    assert content(namespaces, ns, "a") == b"1"
    assert_consistent(folder)


def test_the_number_of_audiences_is_bounded_and_known_ones_can_be_replaced(
    namespaces: EmbeddedNamespaces, ns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_AUDIENCES", 1)
    namespaces.set_audience(P, ns, Audience("a", ()))
    namespaces.set_audience(P, ns, Audience("a", ({"kind": "link"},)))
    with pytest.raises(ResourceLimitExceeded, match="number of audiences is 2, the limit is 1"):
        namespaces.set_audience(P, ns, Audience("b", ()))


def test_what_needs_a_server_says_so(namespaces: EmbeddedNamespaces, ns: str) -> None:
    with pytest.raises(ServiceError, match="building needs a Diaryx server"):
        namespaces.build(P, ns, None)
    with pytest.raises(ServiceError, match="sending e-mail needs a Diaryx server"):
        namespaces.send_email(P, ns, "a", "subject", None)


# --- the quota ------------------------------------------------------------------------------------------------------


def quota_for(*objects: NewObject) -> int:
    """What one namespace without metadata and these objects cost."""
    return 128 + 36 + 4 + sum(128 + len(o.content) + len(o.key) + len(o.mime_type) for o in objects)


def test_the_quota_is_met_exactly_and_not_exceeded_by_a_byte(
    opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    first, second = new("a", b"x" * 60), new("b", b"x" * 40)
    namespaces = opened(quota_for(first, second))
    ns = namespaces.create(P, None).id
    namespaces.put_object(P, ns, first)
    with pytest.raises(ResourceLimitExceeded, match=r"limits\.namespace_quota") as caught:
        namespaces.put_object(P, ns, new("b", b"x" * 41))
    assert (caught.value.figure, caught.value.bound) == (quota_for(first, second) + 1, quota_for(first, second))
    assert len(files(folder)) == 1
    namespaces.put_object(P, ns, second)
    for more in (lambda: namespaces.create(P, None), lambda: namespaces.set_audience(P, ns, Audience("a", ()))):
        with pytest.raises(ResourceLimitExceeded):
            more()
    namespaces.create(Q, None)
    assert_consistent(folder)


def test_a_replacement_counts_the_difference_and_under_a_lowered_quota_shrinking_works(
    opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    large = new("a", b"x" * 1000)
    namespaces = opened(quota_for(large))
    ns = namespaces.create(P, None).id
    namespaces.put_object(P, ns, large)
    namespaces.put_object(P, ns, large)
    lowered = opened(1)
    lowered.put_object(P, ns, new("a", b"x" * 999))
    with pytest.raises(ResourceLimitExceeded):
        lowered.put_object(P, ns, large)
    lowered.delete_object(P, ns, "a")
    assert_consistent(folder)


def test_the_number_of_objects_is_bounded(
    namespaces: EmbeddedNamespaces, ns: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_OBJECTS", 1)
    namespaces.put_object(P, ns, new("a"))
    namespaces.put_object(P, ns, new("a", b"again"))
    with pytest.raises(ResourceLimitExceeded, match="number of objects is 2, the limit is 1"):
        namespaces.put_object(P, ns, new("b"))
    assert_consistent(folder)


def test_writers_at_once_do_not_exceed_the_quota_together(
    opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    some = [new(f"{number:02}", b"x" * 100) for number in range(20)]
    quota = quota_for(*some[:10])
    stores = [opened(quota), opened(quota)]
    ns = stores[0].create(P, None).id
    refused: list[str] = []

    def put(number: int) -> None:
        try:
            stores[number % 2].put_object(P, ns, some[number])
        except ResourceLimitExceeded:
            refused.append(some[number].key)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 10
    assert sorted([*keys(stores[0], ns), *refused]) == [item.key for item in some]
    assert_consistent(folder)


def test_the_default_quota_is_256_mebibytes() -> None:
    assert Limits().namespace_quota == 256 * MIB


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "audience", "no audience"]),
        st.sampled_from(["a", "b", "a/b"]),
        st.binary(max_size=30),
        st.sampled_from([None, "x", "yy"]),
    ),
    max_size=25,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(operations)
def test_it_behaves_like_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes, str | None]]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    namespaces = EmbeddedNamespaces(folder, ROOMY)
    ns = namespaces.create(P, None).id
    model: dict[str, tuple[bytes, str | None]] = {}
    audiences: set[str] = set()
    for what, key, data, audience in steps:
        match what:
            case "put":
                namespaces.put_object(P, ns, new(key, data, audience))
                model[key] = data, audience
            case "delete":
                namespaces.delete_object(P, ns, key)
                model.pop(key, None)
            case "audience":
                namespaces.set_audience(P, ns, Audience(audience or "z", ({"kind": "x" * len(data)},)))
                audiences.add(audience or "z")
            case _:
                namespaces.delete_audience(P, ns, audience or "z")
                audiences.discard(audience or "z")
                model = {k: (d, None if a == audience else a) for k, (d, a) in model.items()}
    assert {i.key: i.audience for i in namespaces.list_objects(P, ns)} == {k: a for k, (_, a) in model.items()}
    assert {key: content(namespaces, ns, key) for key in model} == {key: data for key, (data, _) in model.items()}
    assert set(namespaces.list_audiences(P, ns)) == audiences
    assert_consistent(folder)
    namespaces.close()


# --- crashes, other processes, disks --------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import MAX_TIMEOUT_SECONDS, Deadline
from isoplug.supervisor.namespaces import EmbeddedNamespaces, NewObject
folder, ns, prefix = sys.argv[1:]
namespaces = EmbeddedNamespaces(Path(folder), 1 << 40)
me = Caller("p", Deadline.after(600), None)
for number in range(100_000):
    namespaces.put_object(me, ns, NewObject(f"{prefix}/{number}", f"{number}".encode() * 500, "text/plain"))
    namespaces.put_object(me, ns, NewObject("same", f"{number}".encode() * 500, "text/plain"))
    print(number, flush=True)
"""


def start_writer(folder: Path, ns: str, prefix: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(folder), ns, prefix]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill(writer: subprocess.Popen[str]) -> int:
    """How many objects it acknowledged."""
    writer.kill()
    assert writer.stdout is not None
    lines = writer.stdout.read().split("\n")[:-1]
    assert writer.wait(timeout=20) == -signal.SIGKILL
    writer.stdout.close()
    return len(lines)


def test_every_acknowledged_object_survives_kill_9_and_the_next_opener_removes_what_was_left_over(
    folder: Path, opened: Callable[..., EmbeddedNamespaces]
) -> None:
    namespaces = opened()
    ns = namespaces.create(P, None).id
    namespaces.close()
    for round_number in range(3):
        writer = start_writer(folder, ns, str(round_number))
        assert writer.stdout is not None
        for _ in range(3 + 5 * round_number):
            first = writer.stdout.readline()
        acknowledged = int(first) + 1 + kill(writer)
        namespaces = opened()
        assert_consistent(folder)
        for number in range(acknowledged):
            assert content(namespaces, ns, f"{round_number}/{number}") == f"{number}".encode() * 500
        assert len(content(namespaces, ns, "same")) >= 500
        namespaces.close()


def test_a_file_that_nobody_names_is_removed_by_the_next_opener_that_is_alone(
    namespaces: EmbeddedNamespaces, ns: str, opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    namespaces.put_object(P, ns, new("k", b"kept"))
    ((store_id,),) = selected(folder, "SELECT id FROM store")
    left_over = folder / "objects" / f"{store_id}-left-over"
    left_over.write_bytes(b"of a crash")
    second = opened()
    assert left_over.exists()  # it might be one that the first is about to name
    namespaces.close()
    second.close()
    third = opened()
    assert not left_over.exists()
    assert content(third, ns, "k") == b"kept"


def test_contents_stay_when_their_database_was_moved_away_and_another_one_is_in_use(
    namespaces: EmbeddedNamespaces, ns: str, opened: Callable[..., EmbeddedNamespaces], folder: Path, tmp_path: Path
) -> None:
    namespaces.put_object(P, ns, new("k", b"kept"))
    namespaces.close()
    (folder / "namespaces.sqlite3").rename(tmp_path / "backup")
    for _ in range(3):
        another = opened()
        another.put_object(P, another.create(P, None).id, new("k", b"another"))
        another.close()
    assert len(files(folder)) == 4
    (tmp_path / "backup").rename(folder / "namespaces.sqlite3")
    assert content(opened(), ns, "k") == b"kept"


def test_two_processes_write_and_read_at_once(namespaces: EmbeddedNamespaces, ns: str, folder: Path) -> None:
    writers = [start_writer(folder, ns, str(number)) for number in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 20:
            assert len(content(namespaces, ns, "same")) >= 500
    counts = [21 + kill(writer) for writer in writers]
    for prefix, count in enumerate(counts):
        for number in range(count):
            assert content(namespaces, ns, f"{prefix}/{number}") == f"{number}".encode() * 500


def test_a_full_disk_is_a_clear_error_that_leaves_nothing_half(tmp_path: Path, mounted: Callable[..., None]) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=4m,mode=700")
    (folder / "something else").write_bytes(bytes(65536))
    namespaces = EmbeddedNamespaces(folder, ROOMY)
    ns = namespaces.create(P, None).id
    namespaces.put_object(P, ns, new("kept", b"1" * MIB))
    with pytest.raises(ServiceError, match="No space left on device; free space") as caught:
        namespaces.put_object(P, ns, new("kept", b"2" * (8 * MIB)))
    assert str(folder) not in str(caught.value)
    assert_consistent(folder)
    fill = (namespaces.put_object(P, ns, new(f"{number}", b"x" * 4096)) for number in range(10_000))
    with pytest.raises(ServiceError):
        list(fill)
    assert_consistent(folder)
    assert content(namespaces, ns, "kept") == b"1" * MIB
    (folder / "something else").unlink()
    namespaces.delete_object(P, ns, "kept")
    namespaces.put_object(P, ns, new("after", b"y" * 4096))
    assert_consistent(folder)
    namespaces.close()


def test_what_exceeds_the_quota_is_not_written_first(tmp_path: Path, mounted: Callable[..., None]) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=2m,mode=700")
    namespaces = EmbeddedNamespaces(folder, 3 * MIB)
    ns = namespaces.create(P, None).id
    with pytest.raises(ResourceLimitExceeded):  # and not: no space left
        namespaces.put_object(P, ns, new("k", b"x" * (4 * MIB)))
    namespaces.close()


def test_after_closing_every_call_is_a_service_error(namespaces: EmbeddedNamespaces, ns: str) -> None:
    namespaces.close()
    namespaces.close()
    for ask in (
        lambda: namespaces.put_object(P, ns, new("k")),
        lambda: namespaces.list(P),
        lambda: content(namespaces, ns, "k"),
    ):
        with pytest.raises(ServiceError, match="closed"):
            ask()


def test_a_database_that_has_lost_its_id_is_a_setup_error_that_names_it(
    namespaces: EmbeddedNamespaces, ns: str, opened: Callable[..., EmbeddedNamespaces], folder: Path
) -> None:
    namespaces.put_object(P, ns, new("k"))
    namespaces.close()
    selected(folder, "DELETE FROM store")
    with pytest.raises(SetupError, match=r"namespaces\.sqlite3.*damaged"):
        opened()
    assert len(files(folder)) == 1


@pytest.mark.parametrize("obstacle", ["a file", "a link", "a database of something else"])
def test_what_cannot_be_opened_is_a_setup_error_that_leaves_nothing_open(
    folder: Path, tmp_path: Path, obstacle: str
) -> None:
    match obstacle:
        case "a file":
            (folder / "objects").write_bytes(b"")
        case "a link":
            (folder / "objects").symlink_to(tmp_path)
        case _:
            with closing(sqlite3.connect(folder / "namespaces.sqlite3")) as database:
                database.execute("CREATE TABLE other (x)")
    with pytest.raises(SetupError, match="state_dir"):
        EmbeddedNamespaces(folder, ROOMY)
