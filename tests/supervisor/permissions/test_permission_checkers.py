"""Checkers: where rules come from, and what a denial says."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from isoplug.supervisor.permissions import (
    AllowAll,
    Checker,
    Decision,
    DenyAll,
    Frontmatter,
    Permission,
    Verdict,
    denial,
)
from isoplug.supervisor.workspace import find_root_index

if TYPE_CHECKING:
    from pathlib import Path

READ = Permission.READ_FILES


def root_text(include: str = "journal", extra: str = "") -> str:
    return (
        "---\ntitle: Root\ncontents: []\nplugins:\n  p:\n    permissions:\n"
        f"      read_files:\n        include: ['{include}']\n{extra}---\nbody\n"
    )


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(root_text())
    return path


def checker(root: Path) -> Frontmatter:
    return Frontmatter(root, find_root_index(root))


def test_deny_all_denies_and_allow_all_allows_everything() -> None:
    for permission in Permission:
        assert DenyAll().check("p", permission, "x").verdict is Verdict.DENIED
        assert AllowAll().check("p", permission, "x").is_allowed


def test_a_host_checker_needs_only_check() -> None:
    class Ask(Checker):
        def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
            return Decision(Verdict.ALLOWED)

    assert Ask().storage_quota_bytes("p") is None


def test_the_front_matter_of_the_root_index_decides(index: Path) -> None:
    permissions = checker(index.parent)
    assert permissions.check("p", READ, "journal/a.md").is_allowed
    assert permissions.check("p", READ, "secret.md").verdict is Verdict.DENIED
    assert permissions.check("p", Permission.EDIT_FILES, "journal/a.md").verdict is Verdict.NOT_CONFIGURED
    assert permissions.check("other", READ, "journal/a.md").verdict is Verdict.NOT_CONFIGURED
    assert permissions.check("other", Permission.PLUGIN_STORAGE, "key").is_allowed


def test_absolute_targets_inside_the_workspace_are_made_relative(
    index: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(index.parent)
    permissions = Frontmatter(link, find_root_index(link))
    assert permissions.check("p", READ, f"{link}/journal/a.md").is_allowed
    assert permissions.check("p", READ, f"{index.parent.resolve()}/journal/a.md").is_allowed
    assert not permissions.check("p", READ, f"{index.parent}-other/journal/a.md").is_allowed
    assert not permissions.check("p", READ, f"{link}/journal/../../journal/a").is_allowed


def test_edits_are_picked_up_without_a_restart(index: Path) -> None:
    permissions = checker(index.parent)
    for turn in range(200):
        scope = "journal" if turn % 2 else "private"  # as long as each other: the size does not give it away
        index.write_text(root_text(scope))
        assert permissions.check("p", READ, f"{scope}/a.md").is_allowed
        other = "private" if turn % 2 else "journal"
        assert not permissions.check("p", READ, f"{other}/a.md").is_allowed


def test_an_edit_with_forged_times_is_picked_up(index: Path) -> None:
    permissions = checker(index.parent)
    old = time.time_ns() - 10**12
    os.utime(index, ns=(old, old))
    time.sleep(0.06)
    assert permissions.check("p", READ, "journal/a.md").is_allowed
    with index.open("r+") as file:
        file.write(root_text("private"))
    os.utime(index, ns=(old, old))
    assert not permissions.check("p", READ, "journal/a.md").is_allowed


def test_an_unchanged_file_is_read_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    permissions = checker(index.parent)
    time.sleep(0.06)
    assert permissions.check("p", READ, "journal/a.md").is_allowed

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("read again")

    monkeypatch.setattr(os, "open", refuse)
    assert permissions.check("p", READ, "journal/a.md").is_allowed


def test_a_file_that_may_change_unseen_is_read_for_each_check_and_interpreted_when_it_changed(index: Path) -> None:
    permissions = checker(index.parent)
    future = time.time_ns() + 10**12
    os.utime(index, ns=(future, future))
    rules = permissions.rules("p")
    assert rules is not None
    assert permissions.rules("p") is rules
    os.utime(index, ns=(future + 1, future + 1))
    assert permissions.rules("p") is rules
    with index.open("r+") as file:
        file.write(root_text("private"))
    os.utime(index, ns=(future, future))
    assert permissions.check("p", READ, "private/a.md").is_allowed
    assert not permissions.check("p", READ, "journal/a.md").is_allowed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("---\ncontents: []\nplugins: [\n---\n", "malformed front matter: line"),
        ("---\ncontents: []\nplugins: {}\nplugins: {p: {}}\n---\n", "'plugins' stands twice"),
        ("---\ncontents: []\nplugins: everything\n---\n", "plugins must be a mapping"),
        ("---\ncontents: []\n", "never closed"),
    ],
)
def test_malformed_front_matter_grants_nothing_and_says_so(index: Path, content: str, words: str) -> None:
    permissions = checker(index.parent)
    assert permissions.check("p", READ, "journal/a.md").is_allowed
    index.write_text(content)
    for permission in Permission:
        decision = permissions.check("p", permission, "journal/a.md")
        assert decision.verdict is Verdict.DENIED
        assert words in decision.reason
        assert "README.md" in decision.reason
        assert str(index.parent) not in decision.reason


def test_a_root_index_that_vanished_or_became_something_else_grants_nothing(index: Path) -> None:
    permissions = checker(index.parent)
    assert permissions.check("p", READ, "journal/a.md").is_allowed
    target = index.rename(index.parent / "moved.md")
    assert "cannot be read" in permissions.check("p", READ, "journal/a.md").reason
    index.symlink_to(target)
    assert not permissions.check("p", READ, "journal/a.md").is_allowed
    index.unlink()
    os.mkfifo(index)
    assert "not a regular file" in permissions.check("p", READ, "journal/a.md").reason


def test_without_exactly_one_root_index_nothing_is_granted_and_the_reason_names_the_files(
    tmp_path: Path,
) -> None:
    assert "no root index" in checker(tmp_path).check("p", READ, "a").reason
    (tmp_path / "a.md").write_text(root_text())
    (tmp_path / "b.md").write_text(root_text())
    decision = checker(tmp_path).check("p", Permission.PLUGIN_STORAGE, "a")
    assert decision.verdict is Verdict.DENIED
    assert "a.md, b.md" in decision.reason
    assert "root_index=" in decision.reason


def test_the_storage_quota_comes_from_the_rule(index: Path) -> None:
    extra = "      plugin_storage: {include: all, quota_bytes: 4096}\n"
    permissions = checker(index.parent)
    assert permissions.storage_quota_bytes("p") is None
    index.write_text(root_text(extra=extra))
    assert permissions.storage_quota_bytes("p") == 4096
    assert permissions.storage_quota_bytes("other") is None


def test_threads_never_see_a_mix_of_two_versions(index: Path) -> None:
    """Each version grants one folder; a reader that sees both or neither has read a torn state."""
    permissions = checker(index.parent)
    stop = threading.Event()
    wrong: list[str] = []

    def watch() -> None:
        while not stop.is_set():
            rules = permissions.rules("p")
            include = rules.rules[READ].include if rules is not None and READ in rules.rules else ()
            if include not in (("journal",), ("private",)):
                wrong.append(repr(rules))

    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(150):
        draft = index.with_suffix(".tmp")
        draft.write_text(root_text("journal" if turn % 2 else "private"))
        draft.rename(index)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_checks_leak_no_descriptor(index: Path) -> None:
    permissions = checker(index.parent)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        index.write_text(root_text())
        permissions.check("p", READ, "x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_denial_names_plugin_permission_and_target() -> None:
    error = denial("diaryx.x", READ, "a/b.md", Decision(Verdict.DENIED, "excluded by 'a'"))
    assert str(error) == "Permission denied for plugin 'diaryx.x': read_files on 'a/b.md' (excluded by 'a')"
    assert (error.plugin_id, error.permission, error.target) == ("diaryx.x", "read_files", "a/b.md")


def test_a_denial_for_want_of_a_rule_names_the_key_to_add() -> None:
    text = str(denial("diaryx.x", READ, "a.md", Decision(Verdict.NOT_CONFIGURED)))
    assert "Permission not configured for plugin 'diaryx.x': read_files on 'a.md'" in text
    assert "plugins.diaryx.x.permissions.read_files" in text


def test_a_denial_can_be_sent_whatever_the_target_is() -> None:
    text = str(denial("p", READ, "\ud800" + "x" * 10_000, Decision(Verdict.DENIED, "no")))
    assert len(text.encode()) < 1000
