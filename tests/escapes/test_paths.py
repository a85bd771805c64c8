"""A guest that may do everything to files tries to reach what is not in the workspace, through the real stack."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import PROBE, Bench, nothing_left_behind, open_bench
from conftest import WAIT_SECONDS
from isoplug.supervisor import CallTimeout, ResourceLimitExceeded

SECRET = b"what no guest may see"
TRACES = (
    SECRET,
    base64.b64encode(SECRET),
    hashlib.sha256(SECRET).hexdigest().encode(),
    b"only-outside",  # a name of a file there
)
TIMEOUT = 20.0
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h, renameat2(2)


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    everything = {name: ["all"] for name in ("read_files", "edit_files", "create_files", "delete_files")}
    with open_bench(tmp_path_factory.mktemp("paths"), guest_cache, probe=everything) as opened:
        yield opened


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """With traps in the workspace, and a check that no test changes what is outside."""
    workspace, outside = shared.workspace.path, shared.workspace.path.parent / "outside"
    for folder in (outside, shared.workspace.path.parent / "workspace-twin"):
        folder.mkdir(exist_ok=True)
        (folder / "secret.txt").write_bytes(SECRET)
        (folder / "only-outside.txt").write_bytes(b"")
    shared.workspace.write("inside/note.md", "inside")
    traps = {"link.txt": outside / "secret.txt", "link": outside, "proc": "/proc/self", "loop": "loop", "up": ".."}
    for name, target in traps.items():
        if not (workspace / name).is_symlink():
            (workspace / name).symlink_to(target)
    (workspace / "hard.txt").unlink(missing_ok=True)
    (workspace / "hard.txt").hardlink_to(outside / "secret.txt")
    if not (workspace / "fifo").exists():
        os.mkfifo(workspace / "fifo")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(workspace / "socket"))
        listener.close()
    before = snapshot(shared)
    yield shared
    assert snapshot(shared) == before
    assert shared.answers()


def snapshot(bench: Bench) -> dict[str, tuple[int, bytes]]:
    """Everything beside the workspace but the state: the plugins, outside, the twin."""
    folders = (path for path in bench.workspace.path.parent.iterdir() if path.name not in ("workspace", "state"))
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in files}


def is_envelope(answer: bytes) -> bool:
    return answer.startswith(b'{"error":"')


#: Function, the field that names the path, further fields, and whether an answer is a failure.
ATTEMPTS: list[tuple[str, str, dict[str, str], Callable[[bytes], bool]]] = [
    ("host_read_file", "path", {}, is_envelope),
    ("host_read_binary", "path", {}, is_envelope),
    ("host_list_files", "prefix", {}, is_envelope),
    ("host_list_dir", "path", {}, is_envelope),
    ("host_file_exists", "path", {}, lambda answer: answer == b"false"),
    ("host_file_metadata", "path", {}, lambda answer: answer.startswith(b'{"exists":false,')),
    ("host_hash_file", "path", {}, lambda answer: answer == b""),
    ("host_write_file", "path", {"content": "overwritten"}, lambda answer: len(answer) > 0),
    ("host_write_binary", "path", {"content": "AAE="}, lambda answer: len(answer) > 0),
    ("host_delete_file", "path", {}, lambda answer: len(answer) > 0),
]


def attempt_all(bench: Bench, path: str) -> Iterator[tuple[str, bytes, bool]]:
    """Every function that takes a path; (function, answer, whether it failed as it should)."""
    for function, field, more, is_failure in ATTEMPTS:
        answer = bench.ask(function, {field: path, **more}, timeout=TIMEOUT)
        assert not any(trace in answer for trace in TRACES), (function, answer)
        yield function, answer, is_failure(answer)


UNREACHABLE = {
    "up": "../outside/secret.txt",
    "up and down": "inside/../../outside/secret.txt",
    "up to where it is": "../workspace/inside/note.md",
    "up inside": "inside/../inside/note.md",
    "only dots": "..",
    "dots behind a dot": "./..",
    "backslashes": "..\\outside\\secret.txt",
    "mixed separators": "inside\\../..\\outside/secret.txt",
    "absolute": "/etc/passwd",
    "absolute beside": "{outside}/secret.txt",
    "absolute and up": "{workspace}/../outside/secret.txt",
    "a sibling whose name begins alike": "{workspace}-twin/secret.txt",
    "the root of everything": "/",
    "absolute backslashes": "\\etc\\passwd",
    "a network path": "//etc/passwd",
    "the supervisor's memory": "/proc/self/mem",
    "a device": "/dev/zero",
    "NUL": "inside/note.md\0",
    "NUL in front of an ending": "../outside/secret.txt\0.md",
    "NUL alone": "\0",
    "a link to a file": "link.txt",
    "through a link": "link/secret.txt",
    "a link to a folder": "link",
    "through a link and further": "link/new/deep.txt",
    "a link to the parent": "up/outside/secret.txt",
    "a link to proc": "proc/environ",
    "a link to itself": "loop",
    "through a link to itself": "loop/loop/loop",
    "a name of 256 bytes": "x" * 256,
    "a name of 255 characters that are more bytes": "ä" * 255,
    "60,000 characters": "x" * 60_000,
    "10,000 components": "a/" * 10_000 + "b",
    "2,100 components": "a/" * 2_100 + "b",
    "10,000 times up": "../" * 10_000 + "etc/passwd",
    "a reserved name": ".isoplug-0123456789abcdef.tmp",
    "a reserved name in capitals": ".ISOPLUG-x",
    "a reserved name as folder": ".isoplug-x/y.txt",
    "below a file": "inside/note.md/below",
}


@pytest.mark.parametrize("path", UNREACHABLE.values(), ids=UNREACHABLE)
def test_nothing_outside_can_be_reached_by_name(path: str, bench: Bench) -> None:
    path = path.format(workspace=bench.workspace.path, outside=bench.workspace.path.parent / "outside")
    before = sorted(os.walk(bench.workspace.path))
    for function, answer, is_failure in attempt_all(bench, path):
        assert is_failure, (function, answer)
    assert sorted(os.walk(bench.workspace.path)) == before


SPECIAL = ("hard.txt", "fifo", "socket")


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_not_an_ordinary_file_is_neither_read_nor_waited_for(name: str, bench: Bench) -> None:
    began = time.monotonic()
    for function, answer, is_failure in attempt_all(bench, name):
        if function in ("host_file_exists", "host_file_metadata", "host_delete_file") and name == "hard.txt":
            continue  # its directory entry is the workspace's own
        if function.startswith("host_write") and name == "hard.txt":
            assert answer == b""  # replaces the entry; the file outside keeps its content, as the fixture checks
            continue
        assert is_failure, (function, answer)
    assert time.monotonic() - began < TIMEOUT


@pytest.mark.usefixtures("needs_root")
def test_a_device_in_the_workspace_is_neither_opened_nor_listed(bench: Bench) -> None:
    device = bench.workspace.path / "zero"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine does not let root make devices")
    try:
        for function, answer, is_failure in attempt_all(bench, "zero"):
            assert is_failure, (function, answer)
        assert b"zero" not in bench.ask("host_list_dir", {"path": ""})
    finally:
        device.unlink()


#: Ordinary names here, whatever they mean elsewhere: they stay inside.
ODD = [
    "%2e%2e/outside/secret.txt",
    "..%2foutside%2fsecret.txt",
    "\uff0e\uff0e/outside/secret.txt",
    "\u2025/outside/secret.txt",
    ".. /outside/secret.txt",
    "... /secret.txt",
    ".../secret.txt",
    "~/secret.txt",
    "$HOME/secret.txt",
    "file:/secret.txt",
    "C:/secret.txt",
    "-rf",
    "a\nb",
    "\x1b[2J.md",
    "\u202egnp.md",
    "x" * 255,
    "CON",
    "`id`.md",
    "a/" * 99 + "b",
]


def test_names_that_mean_something_elsewhere_are_ordinary_names(bench: Bench) -> None:
    for path in ODD:
        assert bench.ask("host_write_file", {"path": path, "content": "mine"}, timeout=TIMEOUT) == b"", path
        assert bench.workspace.path.joinpath(*path.split("/")).read_text() == "mine"
        assert bench.ask("host_read_file", {"path": path}) == b"mine"
        assert bench.ask("host_delete_file", {"path": path}) == b"", path


def test_another_case_of_an_excluded_name_is_excluded_too(bench: Bench) -> None:
    bench.workspace.grant(read_files={"include": ["all"], "exclude": ["inside", "Straße"]})
    try:
        for path in ("INSIDE/note.md", "Inside/x", "inSide", "STRASSE/x", "straße"):
            for function, answer, is_failure in attempt_all(bench, path):
                if not function.startswith(("host_write", "host_delete")):
                    assert is_failure, (function, answer)
                    assert not is_envelope(answer) or b"xcluded" in answer, answer
    finally:
        bench.workspace.grant(read_files=["all"])


# --- swapped while a call runs --------------------------------------------------------------------------------------


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange the two names again and again; each step is atomic, so both always exist."""
    libc, is_done = ctypes.CDLL(None, use_errno=True), threading.Event()
    names = os.fsencode(one), os.fsencode(other)
    failures: list[int] = []

    def swap() -> None:
        while not is_done.is_set():
            if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
                failures.append(ctypes.get_errno())
                return

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
    assert not failures, os.strerror(failures[0])


READS = ("host_read_file", "host_read_binary", "host_hash_file", "host_file_metadata")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_swapped_in_during_the_call_is_not_followed(what: str, bench: Bench) -> None:
    top, outside = bench.workspace.path, bench.workspace.path.parent / "outside"
    door, link = top / f"door-{what}", top / f"door-{what}.link"
    if what == "folder":
        bench.workspace.write(f"{door.name}/secret.txt", "inside")
        link.symlink_to(outside)
        path = f"{door.name}/secret.txt"
    else:
        bench.workspace.write(door.name, "inside")
        link.symlink_to(outside / "secret.txt")
        path = door.name
    outcomes = set()
    with swapping(door, link):
        began = time.monotonic()
        while (took := time.monotonic() - began) < 1.0 or (len(outcomes) < 3 and took < WAIT_SECONDS):
            for function in READS:
                answer = bench.ask(function, {"path": path}, timeout=TIMEOUT)
                assert not any(trace in answer for trace in TRACES), (function, answer)
                outcomes.add(answer == b"inside" if function == "host_read_file" else None)
            assert b"only-outside" not in bench.ask("host_list_files", {"prefix": door.name}, timeout=TIMEOUT)
            if what == "folder":  # a write to a file would replace what is swapped
                bench.ask("host_write_file", {"path": path, "content": "inside"}, timeout=TIMEOUT)
                bench.ask("host_write_file", {"path": f"{door.name}/new.txt", "content": "new"}, timeout=TIMEOUT)
                bench.ask("host_delete_file", {"path": f"{door.name}/new.txt"}, timeout=TIMEOUT)
    assert {True, False} <= outcomes, "one side always won, so this showed nothing"
    assert not (outside / "new.txt").exists()


# --- size -----------------------------------------------------------------------------------------------------------


def test_a_file_of_ten_terabytes_is_refused_unread_and_hashing_it_ends_at_the_deadline(bench: Bench) -> None:
    with (bench.workspace.path / "sparse.bin").open("wb") as file:
        file.truncate(10 << 40 if _takes(file.fileno(), 10 << 40) else 10 << 30)
    for function in ("host_read_file", "host_read_binary"):
        assert is_envelope(bench.ask(function, {"path": "sparse.bin"}, timeout=TIMEOUT))
    began = time.monotonic()
    with pytest.raises((CallTimeout, ResourceLimitExceeded)):
        bench.ask("host_hash_file", {"path": "sparse.bin"}, timeout=0.3)
    assert time.monotonic() - began < TIMEOUT
    (bench.workspace.path / "sparse.bin").unlink()


def _takes(descriptor: int, size: int) -> bool:
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        return False
    return True


def test_a_deep_tree_is_listed_without_recursion(bench: Bench) -> None:
    path = "deep/" + "d/" * 200 + "leaf.md"
    bench.workspace.write(path, "leaf")  # a person may make what a guest may not
    listed = json.loads(bench.ask("host_list_files", {"prefix": "deep"}, timeout=TIMEOUT))
    assert len(listed) == 201
    assert listed[-1] == path
    assert PROBE in bench.supervisor.plugins
