"""The demo's plugins on the sample journal: what they answer is what the journal says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import isoplug.supervisor.demo as demo
from conftest import PluginFolder
from isoplug.supervisor import CommandError, GuestTrap, PermissionDenied, Supervisor

HERE = Path(demo.__path__[0])
WORDS, DAILY, BACKLINKS, TROUBLE = "diaryx.words", "diaryx.daily", "diaryx.backlinks", "demo.trouble"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / "journal", tmp_path / "journal"))


@pytest.fixture
def supervisor(copied_plugins: PluginFolder, journal: Path, supervise: Callable[..., Supervisor]) -> Supervisor:
    running = supervise(plugins_dir=copied_plugins.path, workspace=journal)
    assert not running.load_errors
    return running


def body(page: Path) -> str:
    text = page.read_text()
    return text.split("\n---\n", 1)[1] if text.startswith("---\n") else text


def readable(journal: Path) -> dict[str, Path]:
    pages = {str(path.relative_to(journal)): path for path in journal.rglob("*.md")}
    return {name: path for name, path in pages.items() if not name.startswith("private/")}


def test_words_counts_every_page_that_it_may_read(supervisor: Supervisor, journal: Path) -> None:
    answer = supervisor.command(WORDS, "count")
    expected = {name: len(body(path).split()) for name, path in readable(journal).items()}
    assert {page["path"]: page["words"] for page in answer["files"]} == expected
    assert answer["total"] == sum(expected.values())
    assert {page["path"] for page in answer["skipped"]} <= {"private/private.md", "private/letter-never-sent.md"}
    (journal / "people" / "ada.md").write_text((journal / "people" / "ada.md").read_text() + "three more words\n")
    again = supervisor.command(WORDS, "count")
    assert (again["previous"], again["difference"]) == (answer["total"], 3)
    assert [entry["total"] for entry in supervisor.command(WORDS, "history")] == [answer["total"], answer["total"] + 3]


def test_words_hears_of_saved_files(supervisor: Supervisor) -> None:
    supervisor.emit("file_saved", {"path": "people/ada.md"})
    supervisor.emit("file_saved", {"path": "people/joe.md"})
    supervisor.emit("file_created", {"path": "other.md"})
    assert supervisor.flush_events(60.0)
    assert supervisor.command(WORDS, "seen") == {"file_saved": 2, "last_path": "people/joe.md"}


def test_daily_makes_one_page_a_day_lists_it_and_adds_notes(supervisor: Supervisor, journal: Path) -> None:
    rules = (journal / "README.md").read_bytes()
    first = supervisor.command(DAILY, "today", {"text": "Rain."})
    second = supervisor.command(DAILY, "today", {"text": "Still\nrain."})
    assert re.fullmatch(r"journal/\d{4}/\d\d/(\d{4}-\d\d-\d\d)\.md", first["path"])
    assert (first["created"], second["created"]) == (True, False)
    page = (journal / first["path"]).read_text()
    assert re.search(r"\n- \d\d:\d\d Rain\.\n- \d\d:\d\d Still rain\.\n\Z", page)
    assert supervisor.command(DAILY, "open", {"path": first["path"]}) == page
    index = (journal / "journal" / "journal.md").read_text()
    assert index.count(f"(/{first['path']})") == 1
    assert (journal / "README.md").read_bytes() == rules


def test_daily_may_not_open_what_its_rules_exclude(supervisor: Supervisor) -> None:
    with pytest.raises(PermissionDenied):
        supervisor.command(DAILY, "open", {"path": "private/private.md"})
    with pytest.raises(CommandError, match="open needs"):
        supervisor.command(DAILY, "open", {})


def test_backlinks_finds_the_links_and_writes_them(supervisor: Supervisor, journal: Path) -> None:
    answer = supervisor.command(BACKLINKS, "table")
    pages = {page["path"]: page for page in answer["pages"]}
    assert set(pages["projects/sourdough.md"]["linked_from"]) >= {"people/ada.md", "projects/roof-garden.md"}
    assert pages["people/ada.md"]["title"] == "Ada"
    assert answer["links"] == sum(len(page["linked_from"]) for page in answer["pages"])
    assert {"from": "projects/sourdough.md", "to": "projects/flour-notebook.md"} in answer["unresolved"]
    assert "not-a-link" not in json.dumps(answer)
    assert set(pages) <= set(readable(journal)) | {"private/private.md"}
    table = (journal / "Back-links.md").read_text()
    assert all(f"](/{path})" in table for path in pages)
    assert supervisor.command(BACKLINKS, "table")["links"] == answer["links"]


def test_backlinks_relays_what_its_rules_allow_and_nothing_else(supervisor: Supervisor) -> None:
    ask = {"to": DAILY, "command": "open", "params": {"path": "people/ada.md"}}
    assert "Keeps the lock" in supervisor.command(BACKLINKS, "relay", ask)
    with pytest.raises((PermissionDenied, CommandError), match="execute_commands"):
        supervisor.command(BACKLINKS, "relay", {"to": DAILY, "command": "today"})
    with pytest.raises((PermissionDenied, CommandError)):
        supervisor.command(BACKLINKS, "relay", {**ask, "params": {"path": "private/private.md"}})


def test_two_plugins_that_call_each_other_stop_at_the_depth_limit(supervisor: Supervisor) -> None:
    for plugin, other in ((BACKLINKS, WORDS), (WORDS, BACKLINKS)):
        answer = supervisor.command(plugin, "bounce", {"to": other, "n": 0})
        assert answer["reached"] == 8
        assert "depth limit exceeded (max 8)" in answer["stopped_by"]


def test_trouble_harms_nobody(supervisor: Supervisor) -> None:
    with pytest.raises(PermissionDenied, match="read_files"):
        supervisor.command(TROUBLE, "peek", {"path": "people/ada.md"})
    with pytest.raises(GuestTrap):
        supervisor.command(TROUBLE, "trap")
    assert supervisor.command(WORDS, "seen")["file_saved"] == 0
    assert supervisor.status()[WORDS].restarts == 0
