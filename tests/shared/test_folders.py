"""A folder is gone after its removal, whoever filled it and however."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from isoplug.shared.folders import remove_folder


def test_everything_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder / "a" / "b", folder / "c", outside):
        path.mkdir(parents=True)
    for path in (folder / "a" / "b" / "f", folder / "f", outside / "kept"):
        path.write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "a" / "link").symlink_to(outside / "kept")
    os.mkfifo(folder / "fifo")
    remove_folder(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["outside", "kept"]


def test_names_in_other_encodings_and_folders_with_the_same_names_go(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in (b"\xff\xfe", b"same"):
        os.makedirs(os.fsencode(folder) + b"/" + name + b"/same/same/\xff")
    remove_folder(folder)
    assert not folder.exists()


def test_folders_in_each_other_go_deeper_than_a_path_or_a_stack_reaches(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    remove_folder(folder)
    assert not folder.exists()


def test_a_folder_that_is_still_being_filled_for_a_moment_goes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    stop = threading.Event()

    def fill() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                (folder / str(number)).mkdir()
            except OSError:
                return

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        while len(list(folder.iterdir())) < 100:
            pass
        threading.Timer(0.01, stop.set).start()
        remove_folder(folder)
    finally:
        stop.set()
        filler.join()
    remove_folder(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["missing", "file", "link"])
def test_what_is_no_folder_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    remove_folder(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "there"]


def test_two_who_remove_the_same_folder_do_not_hinder_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number in range(300):
        (folder / str(number) / "in" / "side").mkdir(parents=True)
    threads = [threading.Thread(target=remove_folder, args=(folder,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not folder.exists()


@pytest.mark.parametrize(("free", "names"), [(0, []), (1, ["file"]), (4, ["a/b/c"])])
def test_few_descriptors_are_enough(free: int, names: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        remove_folder(folder)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not folder.exists()
