"""The folder of recordings: bounded, shared, private, and never without the modules that are needed."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from isoplug.supervisor.recording import MODULES, End, Ending, Recording, Ring, Step, decode, encode

TIMES = itertools.count(1_000_000_000)


def recording(module: bytes = b"module", size: int = 10, *, crash: bool = False) -> Recording:
    ending = Ending(End.TRAP, text="t", cause="t") if crash else Ending(End.RETURNED, b"out")
    step = Step("echo", bytes(size), (), ending)
    return Recording("a.b", hashlib.sha256(module).hexdigest(), float(next(TIMES)), 0, 1.0, "{}", "0", (), step)


def add(ring: Ring, module: bytes = b"module", size: int = 10, *, crash: bool = False) -> Path:
    made = recording(module, size, crash=crash)
    return ring.add(made, encode(made), lambda: module)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.isorec"))


def modules(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / MODULES).iterdir()}


def test_only_this_user_can_look_at_them(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "recordings", 10, 1 << 20)
    path = add(ring)
    for place, mode in ((path, 0o600), (path.parent, 0o700), (path.parent / MODULES, 0o700)):
        assert stat.S_IMODE(place.stat().st_mode) == mode
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in (path.parent / MODULES).iterdir())


def test_the_latest_are_kept_and_at_most_so_many(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 20, 1 << 20)
    paths = [add(ring) for _ in range(100)]
    left = kept(tmp_path)
    assert 10 <= len(left) <= 20
    assert left == paths[-len(left) :]


def test_their_bytes_are_bounded_with_those_of_their_modules(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 1000, 100_000)
    for number in range(50):
        add(ring, b"m" * (1000 + number // 5), 9_000)
        total = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert total <= 100_000


def test_a_module_is_kept_once_and_dropped_when_no_recording_needs_it(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 16, 1 << 20)
    for _ in range(5):
        add(ring, b"first")
    assert modules(tmp_path) == {b"first"}
    for _ in range(30):
        add(ring, b"second")
    assert modules(tmp_path) == {b"second"}


def test_a_module_that_leaves_no_room_is_not_kept(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 16, 10_000)
    path = add(ring, bytes(6_000))
    assert path.exists()
    assert not (tmp_path / MODULES).exists()


def test_crashes_outlast_calls_that_went_well(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 20, 1 << 20)
    crashed = [add(ring, crash=True) for _ in range(5)]
    for _ in range(100):
        add(ring)
    assert all(path.exists() for path in crashed)


def test_a_storm_of_crashes_leaves_half_of_the_room_to_other_calls(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 20, 1 << 20)
    fine = [add(ring) for _ in range(5)]
    for _ in range(100):
        add(ring, crash=True)
    assert all(path.exists() for path in fine)
    assert len(kept(tmp_path)) <= 20


def test_what_others_have_put_there_is_left_alone(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 4, 1 << 20)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub.isorec").mkdir()
    for _ in range(20):
        add(ring)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "sub.isorec").is_dir()


def test_what_a_killed_supervisor_has_left_half_written_goes(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 4, 1 << 20)
    leftover = tmp_path / ".isoplug-0123.tmp"
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    add(ring)
    assert not leftover.exists()


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "recordings", 4, 1 << 20)
    first = add(ring)
    first.unlink()
    (tmp_path / "recordings").rename(tmp_path / "elsewhere")
    assert add(ring).exists()
    assert modules(tmp_path / "recordings") == {b"module"}


def test_several_over_one_folder_never_lose_a_module_that_is_needed(tmp_path: Path) -> None:
    rings = [Ring(tmp_path, 8, 1 << 20) for _ in range(4)]

    def write(number: int) -> None:
        for turn in range(60):
            add(rings[number], b"%d" % ((turn * (number + 1)) % 5))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    for ring in rings:
        add(ring)
    assert len(kept(tmp_path)) <= 8 + len(rings)
    for path in kept(tmp_path):
        needed = decode(path.read_bytes()).sha256
        assert (tmp_path / MODULES / f"{needed}.wasm").exists()


def test_a_name_of_any_kind_is_the_name_of_a_file(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 16, 1 << 20)
    for plugin_id in ("../../etc/passwd", "a/b", "ä" * 500, "", "...", "a\n-b"):
        made = replace(recording(), plugin_id=plugin_id)
        path = ring.add(made, encode(made), lambda: b"module")
        assert path.parent == tmp_path
        assert decode(path.read_bytes()).plugin_id == plugin_id
    assert len(kept(tmp_path)) == 6


def test_a_folder_that_cannot_be_written_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"):
        add(Ring(tmp_path / "recordings", 4, 1 << 20))
