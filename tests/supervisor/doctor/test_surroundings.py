"""What of a machine gets a note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isoplug.supervisor.config import Config
from isoplug.supervisor.doctor.surroundings import facts, notes

ROOMY = {
    "user": 1000,
    "open_files": 1024,
    "processes": None,
    "address_space_bytes": None,
    "memory_bytes": 8 << 30,
    "cgroup_memory_bytes": None,
    "runtime_folder": "/run/user/1000",
    "runtime_free_bytes": 1 << 30,
}


def test_an_ordinary_machine_gets_no_notes() -> None:
    assert notes(ROOMY, Config()) == ()


@pytest.mark.parametrize(
    ("fact", "value", "about"),
    [
        ("open_files", 128, "open files"),
        ("processes", 64, "processes"),
        ("address_space_bytes", 4 << 30, "address space"),
        ("memory_bytes", 256 << 20, "memory"),
        ("cgroup_memory_bytes", 256 << 20, "memory"),
        ("runtime_free_bytes", 1 << 20, "runtime folder"),
    ],
)
def test_what_will_get_in_the_way_gets_a_note_that_says_what_to_do(fact: str, value: Any, about: str) -> None:
    (note,) = notes(ROOMY | {fact: value}, Config())
    assert note.about == about
    assert note.problem
    assert note.advice


def test_root_has_no_bound_of_processes() -> None:
    assert notes(ROOMY | {"user": 0, "processes": 64}, Config()) == ()


def test_this_machine_has_every_fact_that_a_note_is_made_of(tmp_path: Path) -> None:
    assert facts(tmp_path).keys() >= ROOMY.keys()
