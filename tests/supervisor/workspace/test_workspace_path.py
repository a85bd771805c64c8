"""Names of workspace files: what is accepted, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.workspace import WorkspacePath
from isoplug.supervisor.workspace.path import components, link_target

ROOT = Path("/home/me/journal")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        (".", ()),
        ("./", ()),
        ("a.md", ("a.md",)),
        ("./a//b/./c/", ("a", "b", "c")),
        ("a\\b.md", ("a", "b.md")),
        ("/home/me/journal", ()),
        ("/home/me/journal/", ()),
        ("//home/me/journal//a.md", ("a.md",)),
        ("\\home\\me\\journal\\a.md", ("a.md",)),
        ("home/me/journal/a.md", ("home", "me", "journal", "a.md")),
        ("...", ("...",)),
        ("~/x", ("~", "x")),
        ("\u00e9/\U0001f600.md", ("\u00e9", "\U0001f600.md")),
        ("x" * 255, ("x" * 255,)),
    ],
)
def test_spellings_of_a_path_become_its_components(text: str, parts: tuple[str, ...]) -> None:
    assert WorkspacePath.parse(text, ROOT).parts == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\0b", "NUL"),
        ("..", "'..'"),
        ("a/../b", "'..'"),
        ("a\\..\\b", "'..'"),
        ("/home/me/journal/../x", "'..'"),
        ("/etc/passwd", "outside the workspace"),
        ("/home/me/journal2/x", "outside the workspace"),
        ("/", "outside the workspace"),
        ("\\\\server\\share", "outside the workspace"),
        ("x" * 256, "longer than 255 bytes"),
        ("\u00e9" * 128, "longer than 255 bytes"),
        ("a/" * 3000, "longer than 4096 bytes"),
        ("\u00e9/" * 1400, "longer than 4096 bytes"),
        ("a/\ud800", "not valid UTF-8"),
        ("a/.isoplug-1.tmp", "reserved"),
        (".ISOPLUG-x", "reserved"),
    ],
)
def test_what_is_not_a_workspace_file_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ServiceError, match=words) as caught:
        WorkspacePath.parse(text, ROOT)
    assert len(str(caught.value).encode()) < 400


def test_absolute_paths_need_a_workspace() -> None:
    with pytest.raises(ServiceError, match="absolute"):
        WorkspacePath.parse("/a", None)
    assert WorkspacePath.parse("a", None).text == "a"


def test_the_root_may_be_spelled_with_its_links_resolved(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    assert WorkspacePath.parse(f"{link}/a.md", link).parts == ("a.md",)
    assert WorkspacePath.parse(f"{real}/a.md", link).parts == ("a.md",)
    with pytest.raises(ServiceError):
        WorkspacePath.parse(f"{link}/a.md", real)


def test_a_relative_root_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert WorkspacePath.parse(f"{tmp_path}/journal/a.md", Path("journal")).parts == ("a.md",)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0", "\udcff", ".isoplug-x", "x" * 256])
def test_a_path_cannot_be_built_from_what_is_not_a_name(name: str) -> None:
    with pytest.raises(ServiceError):
        WorkspacePath().child(name)
    with pytest.raises(ServiceError):
        WorkspacePath((name,))


def test_parents_and_children() -> None:
    path = WorkspacePath.parse("a/b.MD")
    assert (path.text, path.name, path.parent.text, path.is_root, path.is_markdown) == (
        "a/b.MD",
        "b.MD",
        "a",
        False,
        True,
    )
    assert path.parent.child("b.MD") == path
    assert WorkspacePath().parent == WorkspacePath()
    assert WorkspacePath().is_root


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("[T](/a.md)", "/a.md"),
        ("[T](</a b.md>)", "/a b.md"),
        ("  [T](/a (1).md)  ", "/a (1).md"),
        ("[](x)", "x"),
        ("a.md", "a.md"),
        ("[draft] a.md", "[draft] a.md"),
        ("[T](/a", None),
        ("[T](</a)", None),
        ("[T](<)", None),
    ],
)
def test_the_target_of_a_link(text: str, target: str | None) -> None:
    assert link_target(text) == target


@given(st.text(max_size=60) | st.text(alphabet="ab./\\~\0", max_size=30))
def test_parsing_ends_in_a_path_or_a_service_error_and_is_idempotent(text: str) -> None:
    try:
        path = WorkspacePath.parse(text, ROOT)
    except ServiceError as error:
        str(error).encode()
        return
    assert WorkspacePath.parse(path.text, ROOT) == path
    assert WorkspacePath.parse(f"{ROOT}/{path.text}", ROOT) == path
    assert ".." not in path.parts
    assert components(path.text) == path.parts
