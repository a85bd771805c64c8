"""The root index: how it is found, and that no guest can use a write or a delete to grant itself anything."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ServiceError, SetupError
from isoplug.supervisor.workspace import (
    GuardedFilesystem,
    RootIndex,
    WorkspaceFilesystem,
    WorkspacePath,
    find_candidates,
    find_root_index,
    frontmatter,
)
from isoplug.supervisor.workspace.rootindex import Header, reason_against_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

P = WorkspacePath.parse
ROOT = (
    b"---\ntitle: T\ncontents:\n  - '[A](/a.md)'\n"
    b"plugins:\n  p:\n    permissions:\n      read_files: {include: [a, b]}\n---\nbody\n"
)
INDEX = b"---\ncontents: []\n---\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_bytes(ROOT)
    (tmp_path / "note.md").write_bytes(b"just a note")
    return tmp_path


@pytest.fixture
def guests(root: Path) -> Iterator[GuardedFilesystem]:
    with WorkspaceFilesystem(root) as files:
        yield GuardedFilesystem(files, find_root_index(files))


# --- finding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", INDEX),
        ("index.MD", INDEX),
        ("a.md", b"---\ncontents: []\npart_of:\n---\n"),
        ("a.md", b"---\ncontents: []\npart_of: ''\n---\n"),
        ("a.md", b"---\ncontents:\n---\n"),
        ("a.md", b"\xef\xbb\xbf---\r\ncontents: []\r\n---\r\n"),
    ],
)
def test_a_markdown_file_with_contents_and_without_part_of_is_the_root_index(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert find_root_index(tmp_path) == RootIndex(P(name), (P(name),))
    assert find_candidates(tmp_path) == (P(name),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", INDEX),
        ("a.md", b"---\ntitle: x\n---\n"),
        ("a.md", b"---\ncontents: []\npart_of: /x.md\n---\n"),
        ("a.md", b"---\ncontents: [\n---\n"),
        ("a.md", b"contents: []"),
        ("sub/a.md", INDEX),
    ],
)
def test_other_files_are_not(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_bytes(content)
    found = find_root_index(tmp_path)
    assert found.path is None
    assert "no root index" in found.reason


def test_a_broken_file_is_named_in_the_reason(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\ncontents: []\ncontents: []\n---\n")
    reason = find_root_index(tmp_path).reason
    assert "README.md" in reason
    assert "line 3" in reason
    assert str(tmp_path) not in reason


def test_with_several_candidates_none_is_chosen_until_the_host_names_one(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.md").write_bytes(INDEX)
    found = find_root_index(tmp_path)
    assert found.path is None
    assert len(found.candidates) == 8
    assert "0.md, 1.md, 2.md, 3.md, 4.md and 3 more" in found.reason
    assert "root_index=" in found.reason
    assert find_root_index(tmp_path, P("3.md")).path == P("3.md")


def test_the_host_may_name_any_file_inside_but_no_link(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub/config.txt").write_bytes(b"---\nplugins: {}\n---\n")
    (root / "link.md").symlink_to("README.md")
    (root / "sublink").symlink_to("sub")
    assert find_root_index(root, P("sub/config.txt")).path == P("sub/config.txt")
    for name in ("missing.md", "link.md", "sublink/config.txt", "sub"):
        with pytest.raises(SetupError, match="root_index="):
            find_root_index(root, P(name))


def test_symbolic_links_are_not_candidates(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(INDEX)
    (tmp_path / "README.md").symlink_to("real")
    assert find_candidates(tmp_path) == ()


# --- what guests may do -----------------------------------------------------------------------------------

PERMITTED = {
    "another body": ROOT + b"more\n",
    "a new child": ROOT.replace(b"contents:\n", b"contents:\n  - '[B](/b.md)'\n"),
    "another title": ROOT.replace(b"title: T", b"title: U"),
    "quoting": ROOT.replace(b"include: [a, b]", b"'include': [\"a\", 'b']"),
    "CRLF": ROOT.replace(b"\n", b"\r\n"),
    "order": b"---\nplugins: {p: {permissions: {read_files: {include: [a, b]}}}}\ncontents: [x]\n---\n",
}
REFUSED = {
    "more for itself": ROOT.replace(b"[a, b]", b"[all]"),
    "another order of scopes": ROOT.replace(b"[a, b]", b"[b, a]"),
    "another plugin": ROOT.replace(b"plugins:\n", b"plugins:\n  evil: {permissions: {read_files: {include: all}}}\n"),
    "no plugins": ROOT.replace(b"plugins:", b"plugged:"),
    "plugins twice": ROOT.replace(b"---\nbody", b"plugins: {evil: {}}\n---\nbody"),
    "no front matter": b"body",
    "nothing": b"",
    "no contents": ROOT.replace(b"contents:\n  - '[A](/a.md)'\n", b""),
    "part of something": ROOT.replace(b"title: T", b"part_of: /x.md"),
    "broken yaml": ROOT.replace(b"title: T", b"title: ["),
    "never closed": ROOT.replace(b"---\nbody", b"body"),
    "not UTF-8 in front": ROOT.replace(b"title: T", b"title: \xff"),
    "not UTF-8 in the body": ROOT + b"\xff",
    "UTF-16": ROOT.decode().encode("utf-16"),
    "too long": ROOT.replace(b"title: T", b"title: " + b"x" * 300_000),
    "too deep": ROOT.replace(b"title: T", b"title: " + b"[" * 100 + b"]" * 100),
    "anchors": ROOT.replace(b"title: T", b"title: &x T"),
    "a document before": b"---\n--- \n" + ROOT,
    "a blank line before": b"\n" + ROOT,
}


@pytest.mark.parametrize("change", PERMITTED)
def test_a_guest_may_edit_the_root_index(guests: GuardedFilesystem, root: Path, change: str) -> None:
    guests.write(P("README.md"), PERMITTED[change])
    assert (root / "README.md").read_bytes() == PERMITTED[change]


@pytest.mark.parametrize("change", REFUSED)
def test_a_guest_may_not_change_what_is_granted_or_make_it_unreadable(
    guests: GuardedFilesystem, root: Path, change: str
) -> None:
    with pytest.raises(ServiceError, match=r"cannot write 'README.md'.*root index"):
        guests.write(P("README.md"), REFUSED[change])
    assert (root / "README.md").read_bytes() == ROOT


def test_a_guest_may_not_delete_the_root_index(guests: GuardedFilesystem, root: Path) -> None:
    with pytest.raises(ServiceError, match=r"cannot delete 'README.md'.*root index"):
        guests.delete(P("README.md"))
    guests.delete(P("note.md"))
    assert sorted(os.listdir(root)) == ["README.md"]


@pytest.mark.parametrize("name", ["AAA.md", "index.MD", "note.md", "new.md.", "new.md ", ".md"])
def test_a_guest_may_not_make_a_second_root_index(guests: GuardedFilesystem, name: str) -> None:
    with pytest.raises(ServiceError, match="second root index"):
        guests.write(P(name), INDEX)
    with pytest.raises(ServiceError, match="second root index"):
        guests.write(P(name), b"---\ncontents: &x []\n---\n")


def test_a_guest_may_write_other_notes(guests: GuardedFilesystem) -> None:
    for path, data in {
        "a.md": b"---\ntitle: x\npart_of: /README.md\ncontents: []\n---\n",
        "b.md": b"plain",
        "c.md": b"---\nnot front matter, a thematic break\n",
        "d.md": b"\xff\xfe binary",
        "e.txt": INDEX,
        "sub/index.md": INDEX,
    }.items():
        guests.write(P(path), data)
    with pytest.raises(ServiceError, match="second root index"):
        guests.write(P("a.md"), INDEX)
    guests.delete(P("a.md"))
    assert [entry.name for entry in guests.children(P("sub"))] == ["index.md"]
    assert guests.stat(P("b.md")) is not None
    with guests.open(P("b.md")) as stream:
        assert stream.read() == b"plain"


def test_without_a_root_index_every_candidate_is_guarded_and_no_new_one_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(INDEX)
    (tmp_path / "b.md").write_bytes(ROOT)
    with WorkspaceFilesystem(tmp_path) as files:
        guests = GuardedFilesystem(files, find_root_index(files))
        for path in ("a.md", "b.md"):
            with pytest.raises(ServiceError, match="plugins"):
                guests.write(P(path), REFUSED["more for itself"])
            with pytest.raises(ServiceError):
                guests.delete(P(path))
        with pytest.raises(ServiceError, match="second root index"):
            guests.write(P("c.md"), INDEX)
        guests.write(P("a.md"), INDEX + b"body")


def test_in_a_workspace_without_any_no_guest_makes_the_first_one(tmp_path: Path) -> None:
    with WorkspaceFilesystem(tmp_path) as files:
        guests = GuardedFilesystem(files, find_root_index(files))
        with pytest.raises(ServiceError, match="root index"):
            guests.write(P("README.md"), ROOT)
        guests.write(P("README.md"), b"hello")


def test_a_candidate_that_a_person_added_later_is_guarded_too(guests: GuardedFilesystem, root: Path) -> None:
    (root / "later.md").write_bytes(INDEX)
    with pytest.raises(ServiceError, match="plugins"):
        guests.write(P("later.md"), ROOT)
    with pytest.raises(ServiceError):
        guests.delete(P("later.md"))
    guests.write(P("later.md"), INDEX + b"body")


def test_a_root_index_that_a_person_broke_is_left_to_that_person(guests: GuardedFilesystem, root: Path) -> None:
    (root / "README.md").write_bytes(b"---\nplugins: [\n---\n")
    for data in (ROOT, INDEX, b""):
        with pytest.raises(ServiceError, match="a person has to repair it"):
            guests.write(P("README.md"), data)


def test_a_root_index_that_a_person_removed_comes_back_without_permissions_only(
    guests: GuardedFilesystem, root: Path
) -> None:
    (root / "README.md").unlink()
    with pytest.raises(ServiceError, match="plugins"):
        guests.write(P("README.md"), ROOT)
    guests.write(P("README.md"), INDEX)


def test_a_hard_link_to_the_root_index_is_the_root_index(guests: GuardedFilesystem, root: Path) -> None:
    (root / "sub").mkdir()
    os.link(root / "README.md", root / "sub/alias.txt")
    for path in ("sub/alias.txt", "README.md"):
        with pytest.raises(ServiceError, match="root index"):
            guests.write(P(path), REFUSED["more for itself"])
        with pytest.raises(ServiceError, match="root index"):
            guests.delete(P(path))


def test_a_root_index_named_by_the_host_is_guarded_wherever_it_is(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub/index.txt").write_bytes(ROOT)
    with WorkspaceFilesystem(root) as files:
        guests = GuardedFilesystem(files, find_root_index(files, P("sub/index.txt")))
        for path in ("sub/index.txt", "README.md"):
            with pytest.raises(ServiceError, match="plugins"):
                guests.write(P(path), REFUSED["more for itself"])
            with pytest.raises(ServiceError):
                guests.delete(P(path))
            guests.write(P(path), PERMITTED["another body"])


def test_guests_that_race_cannot_make_a_second_root_index_between_check_and_write(
    guests: GuardedFilesystem, root: Path
) -> None:
    """Each step is harmless alone: one makes a part, the other an index of it."""
    stop = threading.Event()

    def race(data: bytes) -> None:
        while not stop.is_set():
            with suppress(ServiceError):
                guests.write(P("race.md"), data)

    threads = [threading.Thread(target=race, args=(data,)) for data in (INDEX, b"---\npart_of: x\n---\n", b"plain")]
    for thread in threads:
        thread.start()
    for _ in range(100):
        assert find_candidates(root) == (P("README.md"),)
    stop.set()
    for thread in threads:
        thread.join()


# --- the rule ---------------------------------------------------------------------------------------------

headers = st.builds(
    Header, st.sampled_from(["", {"p": "x"}, {"p": "y"}]), st.booleans(), st.sampled_from(["", "", "broken"])
)


@given(st.none() | headers, st.none() | headers, st.booleans())
def test_what_the_rule_permits_grants_nothing_new(old: Header | None, new: Header | None, is_protected: bool) -> None:
    if reason_against_write(old, new, is_protected=is_protected):
        return
    if is_protected or (old is not None and old.is_root_index):
        assert new is not None
        assert not new.problem
        assert new.plugins == (old.plugins if old is not None else "")
    elif new is not None:
        assert not new.is_root_index
        assert not new.problem


keys = st.sampled_from(["plugins", "contents", "part_of", "title"])
yaml_values = st.sampled_from(["", "x", "[]", "{p: {}}", "{p: {x: all}}", "[", "&a x", "null"])
files = st.lists(st.tuples(keys, yaml_values), max_size=4).map(
    lambda pairs: ("---\n" + "".join(f"{key}: {value}\n" for key, value in pairs) + "---\n").encode()
) | st.binary(max_size=20)


@given(files, files)
def test_no_pair_of_contents_lets_the_granted_value_change(old: bytes, new: bytes) -> None:
    if reason_against_write(Header.parse(old), Header.parse(new), is_protected=True):
        return
    assert not Header.parse(new).problem
    before, after = Header.parse(old), Header.parse(new)
    assert before.plugins == after.plugins
    assert after.is_root_index or not before.is_root_index
    if not frontmatter.is_empty(after.plugins):
        assert frontmatter.parse(new)["plugins"] == frontmatter.parse(old)["plugins"]
