"""What the root index reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.workspace import WorkspaceFilesystem, WorkspacePath, fileset, workspace_file_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write(root: Path, path: str, **values: object) -> None:
    lines = []
    for key, value in values.items():
        if isinstance(value, list):
            lines.append(f"{key}: [{', '.join(repr(item) for item in value)}]")
        else:
            lines.append(f"{key}: {value!r}")
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("---\n" + "\n".join(lines) + "\n---\n")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[WorkspaceFilesystem]:
    with WorkspaceFilesystem(tmp_path) as filesystem:
        yield filesystem


def reached(files: WorkspaceFilesystem, root_index: str = "README.md") -> list[str]:
    return workspace_file_set(files, WorkspacePath.parse(root_index))


def test_contents_and_attachments_are_followed_and_nothing_else(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents=["[Day](/Notes/day.md)", "plain.md"], attachments=["assets/root.png"])
    write(
        tmp_path,
        "Notes/day.md",
        part_of="/README.md",
        attachments=["./_a/day.jpg", "/shared/manual.pdf", "../up.txt"],
    )
    write(tmp_path, "plain.md", contents=["[Deep](</Notes/a b.md>)"])
    write(tmp_path, "Notes/a b.md")
    for name in (
        "assets/root.png",
        "Notes/_a/day.jpg",
        "shared/manual.pdf",
        "up.txt",
        "unlinked.md",
        "node_modules/x.js",
    ):
        write(tmp_path, name)
    assert reached(files) == [
        "Notes/_a/day.jpg",
        "Notes/a b.md",
        "Notes/day.md",
        "README.md",
        "assets/root.png",
        "plain.md",
        "shared/manual.pdf",
        "up.txt",
    ]


def test_an_attachment_note_brings_its_file(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents=[], attachments=["[Photo](/photos/p.jpg.md)"])
    write(tmp_path, "photos/p.jpg.md", attachment="[p](p.jpg)", contents=["not-followed.md"])
    write(tmp_path, "photos/p.jpg")
    write(tmp_path, "photos/not-followed.md")
    assert reached(files) == ["README.md", "photos/p.jpg", "photos/p.jpg.md"]


def test_cycles_end(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents=["a.md", "README.md"])
    write(tmp_path, "a.md", contents=["b.md", "README.md"])
    write(tmp_path, "b.md", contents=["a.md"])
    assert reached(files) == ["README.md", "a.md", "b.md"]


def test_a_long_chain_needs_no_stack(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents=["0.md"])
    for number in range(1500):
        write(tmp_path, f"{number}.md", contents=[f"{number + 1}.md"])
    assert len(reached(files)) == 1501


def test_what_is_missing_outside_or_unreadable_is_left_out(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    (tmp_path.parent / "secret.md").write_text("secret")
    links = [
        "missing.md",
        "../secret.md",
        "/../secret.md",
        "%2e%2e/secret.md",
        "sub",
        "https://x/y.md",
        "link.md",
        "",
        "[x](",
        "a\\..\\..\\secret.md",
    ]
    write(tmp_path, "README.md", contents=[*links, "broken.md"], attachments=links)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.md").symlink_to(tmp_path.parent / "secret.md")
    (tmp_path / "broken.md").write_text("---\ncontents: [\n---\n")
    assert reached(files) == ["README.md", "broken.md"]
    assert reached(files, "missing.md") == []


def test_percent_encoding_is_undone_when_no_file_has_the_raw_name(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents=["[A](/a%20b.md)", "c%20d.md", "e%2Ff.md"])
    for name in ("a b.md", "c%20d.md", "c d.md", "e/f.md"):
        write(tmp_path, name)
    assert reached(files) == ["README.md", "a b.md", "c%20d.md", "e/f.md"]


def test_a_single_link_may_stand_without_a_list(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    write(tmp_path, "README.md", contents="a.md", attachments="b.png")
    write(tmp_path, "a.md")
    write(tmp_path, "b.png")
    assert reached(files) == ["README.md", "a.md", "b.png"]


def test_strange_shapes_have_no_links(files: WorkspaceFilesystem, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\ncontents: {a: b}\nattachments: [[a.md], {b: c}, null]\nattachment: x\n---\n"
    )
    assert reached(files) == ["README.md"]


@pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_LINKS"])
def test_too_many_files_or_links_are_an_error_and_not_a_shorter_list(
    files: WorkspaceFilesystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(fileset, bound, 5)
    write(tmp_path, "README.md", contents=[f"{number}.md" for number in range(6)])
    for number in range(6):
        write(tmp_path, f"{number}.md")
    with pytest.raises(ServiceError, match="more than"):
        reached(files)
