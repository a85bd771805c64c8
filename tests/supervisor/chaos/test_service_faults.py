"""Services that are slow, failing, full or locked, for one call and nobody else."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import ServiceError, Supervisor
from isoplug.supervisor.chaos import (
    DescriptorsExhausted,
    DiskFull,
    Fault,
    Injector,
    Plan,
    Rule,
    ServiceFails,
    ServiceFull,
    ServiceLocked,
)
from isoplug.supervisor.chaos.faults.scarcity import needing_descriptors, without_descriptors
from isoplug.supervisor.storage import SqliteStorage
from isoplug.supervisor.testing import RecordingStorage

PROBE, OTHER = "test.probe", "test.other"

SET = ("host_storage_set", {"key": "k", "data": "eA=="})
GET = ("host_storage_get", {"key": "k"})
SECRET_SET = ("host_secret_set", {"key": "k", "value": "v"})
SECRET_GET = ("host_secret_get", {"key": "k"})
WRITE = ("host_write_file", {"path": "new.md", "content": "new"})
READ = ("host_read_file", {"path": "old.md"})
DELETE = ("host_delete_file", {"path": "old.md"})
CREATE = ("host_namespace_create", {"metadata": None})
LIST: tuple[str, dict[str, Any]] = ("host_namespace_list", {})

Ask = Callable[..., list[str]]


@pytest.fixture
def struck(plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]) -> Callable[..., Ask]:
    """``ask(calls)`` of a plugin whose calls, or host calls, all have the fault; of another one they have none."""
    for plugin_id in (PROBE, OTHER):
        plugins.add(plugin_id)
        everything = {"read_files": ["all"], "create_files": ["all"], "delete_files": ["all"]}
        workspace.grant(plugin_id, plugin_storage=["all"], **everything)
    workspace.write("old.md", "old")

    def start(fault: Fault, **arguments: Any) -> Ask:
        injector = Injector(Plan((Rule(fault, plugin=PROBE),)))
        supervisor = supervise(interceptors=[injector], **arguments)

        def ask(*calls: tuple[str, dict[str, Any]], plugin_id: str = PROBE) -> list[str]:
            inputs = [{"function": name, "input": json.dumps(value)} for name, value in calls]
            answers: list[str] = json.loads(
                supervisor.call(plugin_id, "host_many", json.dumps({"calls": inputs}).encode())
            )
            return answers

        return ask

    return start


def test_a_full_disk_takes_nothing_and_still_gives_and_deletes(struck: Callable[..., Ask]) -> None:
    ask = struck(DiskFull())
    *refused, got, secret, read, listed, deleted = ask(
        SET, SECRET_SET, WRITE, CREATE, GET, SECRET_GET, READ, LIST, DELETE
    )
    assert all("No space left on device" in answer for answer in refused)
    assert (got, secret, read, listed, deleted) == ("", "", "old", "[]", "")


@pytest.mark.parametrize("fault", [DiskFull(), ServiceFull(), ServiceFails(), ServiceLocked(patience=0.01)], ids=str)
def test_another_plugin_finds_its_services_as_ever(struck: Callable[..., Ask], fault: Fault) -> None:
    ask = struck(fault)
    assert ask(SET) != [""]
    assert ask(SET, plugin_id=OTHER) == [""]


def test_a_service_of_the_host_s_own_fails_as_well(struck: Callable[..., Ask]) -> None:
    for fault, says in (
        (ServiceFails(), "the service is down"),
        (ServiceFails(unexpected=True), "internal error of the host"),
        (ServiceFull(), "No space left on device"),
        (ServiceLocked(patience=0.01), "database is locked"),
    ):
        storage = RecordingStorage()
        assert says in struck(fault, storage=storage)(SET)[0]
        assert storage.get(PROBE, "k") is None


def test_a_locked_storage_is_locked_by_sqlite_itself_and_still_read(struck: Callable[..., Ask]) -> None:
    wrote, read = struck(ServiceLocked(patience=0.01))(SET, GET)
    assert "database is locked; another process holds it" in wrote
    assert read == ""


def test_while_a_storage_is_held_nobody_writes_and_afterwards_everybody_may(tmp_path: Path) -> None:
    held, other = SqliteStorage(tmp_path / "storage.db"), SqliteStorage(tmp_path / "storage.db")
    held.set("p", "before", b"x", 100)
    waiting = threading.Thread(target=held.set, args=("p", "waited", b"x", 100))
    with other.held("p"):
        waiting.start()
        assert other.get("p", "before") == b"x"
        assert other.get("p", "waited") is None
    waiting.join()
    assert held.get("p", "waited") == b"x"
    held.close()
    other.close()


def test_holding_a_storage_that_is_closed_for_good_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    storage = SqliteStorage(tmp_path / "folder" / "storage.db")
    for path in (tmp_path / "folder").iterdir():
        path.unlink()
    (tmp_path / "folder").rmdir()
    with pytest.raises(ServiceError, match="cannot write the plugin storage"), storage.held("p"):
        pass
    storage.close()


def test_without_descriptors_a_file_cannot_be_opened_and_the_limit_is_as_before(struck: Callable[..., Ask]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    ask = struck(DescriptorsExhausted())
    assert "Too many open files" in ask(READ)[0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    assert ask(READ, plugin_id=OTHER) == ["old"]


def test_the_limit_comes_back_when_the_last_of_several_has_done() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_inside, may_leave = threading.Event(), threading.Event()

    def act() -> None:
        with without_descriptors():
            is_inside.set()
            may_leave.wait()

    thread = threading.Thread(target=act)
    thread.start()
    is_inside.wait()
    with without_descriptors():
        lowered = resource.getrlimit(resource.RLIMIT_NOFILE)
    still = resource.getrlimit(resource.RLIMIT_NOFILE)
    may_leave.set()
    thread.join()
    assert lowered == still != before
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_a_fault_that_opens_something_waits_until_there_are_descriptors_again() -> None:
    order: list[str] = []

    def need() -> None:
        with needing_descriptors():
            open(os.devnull).close()
            order.append("opened")

    with without_descriptors():
        thread = threading.Thread(target=need)
        thread.start()
        order.append("none left")
    thread.join()
    assert order == ["none left", "opened"]
