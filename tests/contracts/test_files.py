"""What the file functions do, beyond the form of their answers: spelling, rules, atomic writes, the file set."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bench import PROBE, ask
from conftest import PluginFolder, Workspace
from isoplug.supervisor import Supervisor

Supervise = Callable[..., Supervisor]
EVERYTHING: dict[str, Any] = {name: ["all"] for name in ("read_files", "edit_files", "create_files", "delete_files")}


def listing(supervisor: Supervisor, name: str, function: str = "host_list_files") -> list[str]:
    field = "prefix" if function == "host_list_files" else "path"
    answer = json.loads(ask(supervisor, function, {field: name}))
    assert isinstance(answer, list), answer
    return answer


def write(supervisor: Supervisor, path: str, content: str = "new", plugin_id: str = PROBE) -> str:
    return ask(supervisor, "host_write_file", {"path": path, "content": content}, plugin_id).decode()


@pytest.fixture
def journal(plugins: PluginFolder, workspace: Workspace) -> Workspace:
    plugins.add()
    workspace.grant(**EVERYTHING)
    for name in ("journal/a.md", "journal/deep/b.md", "journal/deep/deeper/c.png", "other.md"):
        workspace.write(name, name)
    return workspace


# --- listings -------------------------------------------------------------------------------------------------------


def test_listings_keep_the_spelling_they_were_asked_in(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    below = ["a.md", "deep", "deep/b.md", "deep/deeper", "deep/deeper/c.png"]
    for asked, prefix in {
        "journal": "journal/",
        "journal/": "journal/",
        "./journal": "./journal/",
        "./journal/": "./journal/",
        ".//journal//": ".//journal//",
        f"{journal.path}/journal": f"{journal.path}/journal/",
    }.items():
        assert sorted(listing(supervisor, asked)) == [prefix + name for name in below]
        assert listing(supervisor, asked, "host_list_dir") == [prefix + name for name in ("a.md", "deep")]


def test_the_empty_prefix_and_a_dot_mean_the_workspace(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    direct = ["README.md", "journal", "other.md"]
    assert listing(supervisor, "", "host_list_dir") == direct
    assert listing(supervisor, ".", "host_list_dir") == [f"./{name}" for name in direct]
    assert listing(supervisor, str(journal.path), "host_list_dir") == [f"{journal.path}/{name}" for name in direct]
    assert set(direct) < set(listing(supervisor, ""))
    assert "journal/deep/deeper/c.png" in listing(supervisor, "")


def test_what_a_listing_says_can_be_read_in_that_spelling(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    for asked in ("", ".", "./journal", str(journal.path)):
        for name in listing(supervisor, asked):
            if name.endswith("b.md"):
                assert ask(supervisor, "host_read_file", {"path": name}) == b"journal/deep/b.md"


def test_listings_leave_out_what_the_rules_exclude_with_everything_below_it(
    journal: Workspace, supervise: Supervise
) -> None:
    journal.grant(read_files={"include": ["all"], "exclude": ["journal/deep", "[Other](/other.md)"]})
    supervisor = supervise()
    assert listing(supervisor, "") == ["README.md", "journal", "journal/a.md"]
    assert listing(supervisor, "", "host_list_dir") == ["README.md", "journal"]
    assert ask(supervisor, "host_list_files", {"prefix": "journal/deep"}).startswith(b'{"error":"')
    assert ask(supervisor, "host_list_dir", {"path": "journal/deep/deeper"}).startswith(b'{"error":"')


def test_an_excluded_entry_does_not_exist_for_the_functions_that_only_look(
    journal: Workspace, supervise: Supervise
) -> None:
    journal.grant(read_files={"include": ["all"], "exclude": ["journal"]})
    supervisor = supervise()
    for path in ("journal/a.md", "journal", "journal/missing.md", "JOURNAL/a.md"):
        assert ask(supervisor, "host_file_exists", {"path": path}) == b"false"
        assert b'"exists":false' in ask(supervisor, "host_file_metadata", {"path": path})
        assert ask(supervisor, "host_hash_file", {"path": path}) == b""


def test_listings_leave_out_links_special_files_and_half_written_files(
    journal: Workspace, supervise: Supervise
) -> None:
    folder = journal.path / "journal"
    (folder / "link.md").symlink_to(folder / "a.md")
    (folder / "link").symlink_to(folder / "deep")
    os.mkfifo(folder / "fifo")
    (folder / ".isoplug-0123.tmp").write_text("half")
    (folder / ".dotfile").write_text("an ordinary file for guests that sync")
    supervisor = supervise()
    assert listing(supervisor, "journal", "host_list_dir") == ["journal/.dotfile", "journal/a.md", "journal/deep"]


def test_names_in_any_script_are_listed_and_read(journal: Workspace, supervise: Supervise) -> None:
    names = ["Tagebuch für Ärger.md", "日記.md", 'quote".md', "tab\t.md", "emoji 🙂.md", "new\nline.md", "%2e%2e.md"]
    for name in names:
        journal.write(f"names/{name}", name)
    supervisor = supervise()
    assert listing(supervisor, "names") == sorted(f"names/{name}" for name in names)
    for name in names:
        assert ask(supervisor, "host_read_file", {"path": f"names/{name}"}).decode() == name


@pytest.mark.usefixtures("journal")
def test_listing_a_file_or_nothing_is_an_error(supervise: Supervise) -> None:
    supervisor = supervise()
    for path in ("other.md", "missing"):
        assert ask(supervisor, "host_list_files", {"prefix": path}).startswith(b'{"error":"')
        assert ask(supervisor, "host_list_dir", {"path": path}).startswith(b'{"error":"')


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("journal")
def test_directories_exist_and_are_not_files(supervise: Supervise) -> None:
    supervisor = supervise()
    assert ask(supervisor, "host_file_exists", {"path": "journal"}) == b"true"
    assert ask(supervisor, "host_file_exists", {"path": "missing"}) == b"false"
    assert json.loads(ask(supervisor, "host_file_metadata", {"path": "journal/"}))["exists"] is True
    assert ask(supervisor, "host_read_file", {"path": "journal"}).startswith(b'{"error":"')
    assert ask(supervisor, "host_hash_file", {"path": "journal"}) == b""


def test_metadata_and_hash_are_those_of_the_file(journal: Workspace, supervise: Supervise) -> None:
    file = journal.write("data.bin", bytes(range(256)) * 9000)
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    supervisor = supervise()
    assert json.loads(ask(supervisor, "host_file_metadata", {"path": "data.bin"})) == {
        "exists": True,
        "size_bytes": 256 * 9000,
        "modified_at_ms": 1_700_000_000_123,
    }
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(ask(supervisor, "host_hash_file", {"path": "data.bin"})) == {"hash": expected}


@pytest.mark.parametrize("shift", range(4))
def test_a_long_text_is_read_wherever_its_letters_are_cut_and_refused_when_one_is_broken(
    journal: Workspace, supervise: Supervise, shift: int
) -> None:
    supervisor = supervise()
    text = b"." * shift + "😀".encode() * 50_000
    (journal.path / "long.md").write_bytes(text)
    assert ask(supervisor, "host_read_file", {"path": "long.md"}) == text
    for broken in (text[:-1], text[:100_000] + b"\xff" + text[100_000:]):
        (journal.path / "long.md").write_bytes(broken)
        assert b"not UTF-8" in ask(supervisor, "host_read_file", {"path": "long.md"})


def test_bytes_that_are_not_text_are_read_as_binary_only(journal: Workspace, supervise: Supervise) -> None:
    content = b"\x00\xff\xfe" + os.urandom(2000)
    journal.write("data.bin", content)
    supervisor = supervise()
    answer = json.loads(ask(supervisor, "host_read_file", {"path": "data.bin"}))
    assert "host_read_binary" in answer["error"]
    data = json.loads(ask(supervisor, "host_read_binary", {"path": "data.bin"}))
    assert base64.b64decode(data["data"]) == content


def test_an_empty_file_is_read_as_such(journal: Workspace, supervise: Supervise) -> None:
    journal.write("empty.md")
    supervisor = supervise()
    assert ask(supervisor, "host_read_file", {"path": "empty.md"}) == b""
    assert ask(supervisor, "host_read_binary", {"path": "empty.md"}) == b'{"data":""}'


# --- writing --------------------------------------------------------------------------------------------------------


def test_writing_needs_edit_for_a_file_that_exists_and_create_for_one_that_does_not(
    journal: Workspace, plugins: PluginFolder, supervise: Supervise
) -> None:
    plugins.add("test.editor")
    plugins.add("test.creator")
    journal.grant("test.editor", edit_files=["all"])
    journal.grant("test.creator", create_files=["all"])
    supervisor = supervise()
    assert write(supervisor, "other.md", "edited", "test.editor") == ""
    assert "create_files" in write(supervisor, "new.md", "x", "test.editor")
    assert write(supervisor, "new.md", "created", "test.creator") == ""
    assert "edit_files" in write(supervisor, "new.md", "again", "test.creator")
    assert (journal.path / "other.md").read_text() == "edited"
    assert (journal.path / "new.md").read_text() == "created"


def test_writes_make_parent_directories_and_keep_bytes(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    content = os.urandom(300_000)
    payload = {"path": "new/deep/data.bin", "content": base64.b64encode(content).decode()}
    assert ask(supervisor, "host_write_binary", payload) == b""
    assert (journal.path / "new/deep/data.bin").read_bytes() == content
    assert write(supervisor, f"{journal.path}/new/text.md", "Grüße\r\n\0") == ""
    assert (journal.path / "new/text.md").read_bytes() == "Grüße\r\n\0".encode()


def test_binary_content_that_is_not_base64_is_refused_and_nothing_is_written(
    journal: Workspace, supervise: Supervise
) -> None:
    supervisor = supervise()
    for content in ("AAE", "A", "====", "AA==AA==", "A A E =", "ÄÖ", "-_-_", "AAE=\n"):
        assert ask(supervisor, "host_write_binary", {"path": "new/x.bin", "content": content}), content
    assert not (journal.path / "new").exists()


def test_a_reader_sees_the_old_file_or_the_new_one(journal: Workspace, supervise: Supervise) -> None:
    texts = ["a" * 200_000, "b" * 100_000]
    target = journal.write("big.md", texts[0])
    supervisor = supervise()
    seen: list[bytes] = []
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            seen.append(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(20):
            assert write(supervisor, "big.md", texts[turn % 2]) == ""
    finally:
        is_done.set()
        reader.join()
    assert set(seen) <= {text.encode() for text in texts}
    assert sorted(path.name for path in journal.path.iterdir()) == ["README.md", "big.md", "journal", "other.md"]


def test_only_files_are_deleted(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    assert ask(supervisor, "host_delete_file", {"path": "other.md"}) == b""
    assert not (journal.path / "other.md").exists()
    assert ask(supervisor, "host_delete_file", {"path": "other.md"})
    assert b"directory" in ask(supervisor, "host_delete_file", {"path": "journal"})
    assert b"workspace" in ask(supervisor, "host_delete_file", {"path": ""})
    assert (journal.path / "journal/a.md").exists()


def test_a_write_onto_a_directory_is_refused(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    for path in ("journal", "journal/", "", "."):
        assert write(supervisor, path)
    assert (journal.path / "journal/a.md").exists()


def test_a_write_below_a_file_is_refused(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    assert write(supervisor, "other.md/below.md")
    assert (journal.path / "other.md").read_text() == "other.md"


# --- rules ----------------------------------------------------------------------------------------------------------


def test_edits_of_the_front_matter_take_effect_without_a_restart(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    for _ in range(3):
        journal.grant(read_files={"include": ["all"], "exclude": ["other.md"]})
        assert ask(supervisor, "host_read_file", {"path": "other.md"}).startswith(b'{"error":"')
        journal.grant(read_files=["all"])
        assert ask(supervisor, "host_read_file", {"path": "other.md"}) == b"other.md"
    (journal.path / "README.md").write_text("---\ncontents: []\nplugins: [\n---\n")
    answer = json.loads(ask(supervisor, "host_read_file", {"path": "other.md"}))
    assert "front matter" in answer["error"]


def test_a_scope_that_names_a_folders_index_covers_the_folder(journal: Workspace, supervise: Supervise) -> None:
    journal.write("journal/journal.md", "index")
    journal.grant(read_files=["[Journal](/journal/journal.md)"])
    supervisor = supervise()
    assert ask(supervisor, "host_read_file", {"path": "journal/deep/b.md"}) == b"journal/deep/b.md"
    assert ask(supervisor, "host_read_file", {"path": "other.md"}).startswith(b'{"error":"')
    assert ask(supervisor, "host_list_dir", {"path": ""}).startswith(b'{"error":"')


def test_a_scope_that_names_a_folder_does_not_cover_its_neighbours(journal: Workspace, supervise: Supervise) -> None:
    journal.write("journal/deep-secret.md", "secret")
    journal.grant(read_files=["journal/deep"])
    supervisor = supervise()
    assert ask(supervisor, "host_read_file", {"path": "journal/deep/b.md"}) == b"journal/deep/b.md"
    for path in ("journal/deep-secret.md", "journal/a.md", "journal"):
        assert ask(supervisor, "host_file_exists", {"path": path}) == b"false"


# --- the workspace's file set ---------------------------------------------------------------------------------------


def test_the_file_set_is_what_the_root_index_reaches_sorted_and_without_what_is_excluded(
    journal: Workspace, supervise: Supervise
) -> None:
    journal.grant(read_files={"include": ["all"], "exclude": ["private"]})
    index = journal.path / "README.md"
    index.write_text(
        index.read_text().replace(
            "contents: []",
            "contents: ['[Z](/z.md)', 'journal/a.md', 'private/p.md', 'missing.md', '../outside.md', 'z.md']",
        )
    )
    journal.write("z.md", "---\npart_of: README.md\nattachments: [journal/deep/deeper/c.png]\n---\n")
    journal.write("private/p.md", "private")
    (journal.path.parent / "outside.md").write_text("outside")
    supervisor = supervise()
    expected = ["README.md", "journal/a.md", "journal/deep/deeper/c.png", "z.md"]
    assert json.loads(ask(supervisor, "host_workspace_file_set", {})) == expected


def test_without_a_root_index_nothing_is_allowed_and_the_file_set_says_why(
    plugins: PluginFolder, workspace: Workspace, supervise: Supervise
) -> None:
    plugins.add()
    (workspace.path / "README.md").unlink()
    workspace.write("a.md", "a")
    supervisor = supervise()
    assert b"root index" in ask(supervisor, "host_workspace_file_set", {})
    assert b"root index" in ask(supervisor, "host_read_file", {"path": "a.md"})


def test_without_a_workspace_every_file_function_answers_in_its_error_form(
    plugins: PluginFolder, supervise: Supervise
) -> None:
    plugins.add()
    supervisor = supervise(workspace=None)
    assert ask(supervisor, "host_read_file", {"path": "a.md"}).startswith(b'{"error":"')
    assert ask(supervisor, "host_list_dir", {"path": ""}).startswith(b'{"error":"')
    assert ask(supervisor, "host_workspace_file_set", {})
    assert ask(supervisor, "host_file_exists", {"path": "a.md"}) == b"false"
    assert write(supervisor, "a.md")
    assert write(supervisor, "/etc/isoplug-was-here")


# --- the root index -------------------------------------------------------------------------------------------------

GRANTING = """---
contents: []
plugins:
  test.probe:
    permissions:
      execute_commands: {include: [all]}
---
"""


def write_both_ways(supervisor: Supervisor, path: str, content: str) -> list[bytes]:
    encoded = base64.b64encode(content.encode()).decode()
    return [
        ask(supervisor, "host_write_file", {"path": path, "content": content}),
        ask(supervisor, "host_write_binary", {"path": path, "content": encoded}),
    ]


def test_a_guest_cannot_change_plugins_in_the_root_index(journal: Workspace, supervise: Supervise) -> None:
    before = (journal.path / "README.md").read_text()
    supervisor = supervise()
    attempts = [GRANTING, "no front matter", "", "---\ncontents: [\n---\n", before.replace("delete_files", "x")]
    attempts += [before.replace("contents: []", "part_of: x.md"), "\ufeff" + GRANTING, GRANTING.replace("\n", "\r\n")]
    for path in ("README.md", "./README.md", f"{journal.path}/README.md", ".\\README.md", "README.md/"):
        for content in attempts:
            assert all(write_both_ways(supervisor, path, content)), (path, content)
        assert ask(supervisor, "host_delete_file", {"path": path})
    assert (journal.path / "README.md").read_text() == before


def test_a_guest_may_add_to_the_contents_of_the_root_index_and_to_its_text(
    journal: Workspace, supervise: Supervise
) -> None:
    before = (journal.path / "README.md").read_text()
    supervisor = supervise()
    after = before.replace("contents: []", "contents: ['[Note](/journal/a.md)']") + "More text.\n"
    assert write_both_ways(supervisor, "README.md", after) == [b"", b""]
    assert (journal.path / "README.md").read_text() == after
    assert "journal/a.md" in json.loads(ask(supervisor, "host_workspace_file_set", {}))


def test_a_guest_cannot_make_a_second_root_index(journal: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    files = sorted(journal.path.iterdir())
    for path in ("index.md", "AAA.MD", "readme.md", "./index.md", f"{journal.path}/index.md", "other.md"):
        for content in (GRANTING, "---\ncontents: [\n---\n", GRANTING.replace("\n", "\r\n")):
            assert all(write_both_ways(supervisor, path, content)), (path, content)
    assert sorted(journal.path.iterdir()) == files
    assert (journal.path / "other.md").read_text() == "other.md"


@pytest.mark.usefixtures("journal")
def test_an_index_of_a_folder_and_a_part_of_the_workspace_are_no_root_index(supervise: Supervise) -> None:
    supervisor = supervise()
    assert write(supervisor, "journal/journal.md", GRANTING) == ""
    assert write(supervisor, "part.md", "---\ncontents: []\npart_of: README.md\n---\n") == ""
    supervisor.close()
    assert ask(supervise(), "host_read_file", {"path": "other.md"}) == b"other.md"  # the root index is what it was


def test_guests_cannot_write_into_a_plugins_folder_inside_the_workspace(
    workspace: Workspace, guest_cache: Any, supervise: Supervise
) -> None:
    folder = workspace.path / "system/plugins"
    folder.mkdir(parents=True)
    wasm = PluginFolder(folder, guest_cache).add(config={"secret": 1})
    workspace.grant(**EVERYTHING)
    supervisor = supervise(plugins_dir=folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    names = ["plugin.wasm", "config.json", "manifest.json", "new.txt"]
    targets = [f"system/plugins/{PROBE}/{name}" for name in names]
    targets += ["system/plugins/evil/plugin.wasm", "system/plugins/x", "SYSTEM/Plugins/evil/plugin.wasm"]
    targets += [str(wasm), f"{workspace.path}/./system//plugins/x", "system\\plugins\\evil\\plugin.wasm"]
    for path in targets:
        assert all(write_both_ways(supervisor, path, "evil")), path
        assert ask(supervisor, "host_delete_file", {"path": path}), path
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (workspace.path / "SYSTEM").exists()
    assert write(supervisor, "system/beside.txt") == ""
