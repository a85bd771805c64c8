"""Native code in a worker: no attack gets through every layer, and which layer a table says it needs.

``tests/attacks`` has the attacks. The measurements are made by ``table.py``, in processes of their own: an attack that
gets through may hurt whoever started it. Once as whoever runs the tests, and as root once more as a user without
privileges, who has neither a jail nor a user for each plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from attacks.campaign import Verdict, campaign
from attacks.registry import ATTACKS
from bench import nothing_left_behind
from escapes.table import ALL, OFF, Table, stopping_layers
from guests import guest
from isoplug.shared.lockdown import Layer
from unprivileged import UNPRIVILEGED, as_unprivileged, why_not

pytestmark = pytest.mark.timeout(600)

SCRIPT = Path(__file__).with_name("table.py")

#: What a worker can do to itself, for good reasons: SIGKILL cannot be blocked, and is the only signal that it is sent.
ACCEPTED = {"all_signals_blocked"}

#: What only a user id of its own bounds (RLIMIT_NPROC counts by user): threads, for a guest that uses WASI.
ACCEPTED_WITHOUT_ROOT = {*ACCEPTED, "many_threads"}

#: What only a zygote with the host's memory, environment or descriptors would give away, whatever the layers: these
#: find nothing even without lock-down. ``test_the_search_of_the_memory_finds_what_is_there`` shows that they can.
NOT_THERE_ANYWAY = {"secret_in_memory", "environment_in_memory", "environment_by_proc", "descriptors_left_open"}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def tables(guest_cache: Path) -> Iterator[dict[str, Table]]:
    """By who ran it. Both are measured at the same time."""
    wasm = guest("probe", guest_cache)
    with ExitStack() as held:
        running = {"self": measuring(held, wasm, is_unprivileged=False)}
        if why_not() is None:
            running["unprivileged"] = measuring(held, wasm, is_unprivileged=True)
        yield {who: read(process) for who, process in running.items()}


def measuring(held: ExitStack, wasm: Path, *, is_unprivileged: bool) -> subprocess.Popen[str]:
    folder = Path(tempfile.mkdtemp(prefix="iso-attacks-"))
    held.callback(shutil.rmtree, folder)
    shutil.copy(wasm, folder / "guest.wasm")
    command = [sys.executable, str(SCRIPT), "--json", "--guest", str(folder / "guest.wasm")]
    if is_unprivileged:
        os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
        (folder / "guest.wasm").chmod(0o644)
        command = as_unprivileged(command)
    process = held.enter_context(
        subprocess.Popen(
            command,
            env={"HOME": str(folder), "TMPDIR": str(folder), "PATH": f"{os.defpath}:/usr/sbin:/sbin"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    held.callback(process.kill)
    return process


def read(process: subprocess.Popen[str]) -> Table:
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return {
        column: {attack: Verdict(*verdict) for attack, verdict in verdicts.items()}
        for column, verdicts in json.loads(output).items()
    }


@pytest.fixture(params=["self", "unprivileged"])
def table(request: pytest.FixtureRequest, tables: dict[str, Table]) -> Table:
    if request.param not in tables:
        pytest.skip(str(why_not()))
    return tables[request.param]


def through(table: Table, column: str) -> set[str]:
    return {name for name, verdict in table[column].items() if verdict.outcome == "succeeded"}


def test_there_are_attacks_enough_and_they_work_where_nothing_stops_them(tables: dict[str, Table]) -> None:
    assert len(ATTACKS) >= 200
    working = through(tables["self"], OFF)
    assert len(working) >= (150 if os.geteuid() == 0 else 100), sorted(ATTACKS.keys() - working)


def accepted(table: Table) -> set[str]:
    return ACCEPTED if f"-{Layer.USER}" in table else ACCEPTED_WITHOUT_ROOT


def test_no_attack_gets_through_every_layer(table: Table) -> None:
    assert through(table, ALL) <= accepted(table)


def test_the_layers_were_there(table: Table, tables: dict[str, Table]) -> None:
    """Or what they stop would prove nothing: seccomp kills, Landlock and the jail leave no file to be found."""
    assert table[ALL]["fork"] == Verdict("died", "SIGSYS")
    assert table["-seccomp"]["read_a_file"].detail in ("EACCES", "ENOENT")
    assert "fork" in through(table, "-seccomp")


def test_what_the_host_keeps_from_the_zygote_is_not_to_be_found_even_without_layers(table: Table) -> None:
    assert not through(table, OFF) & NOT_THERE_ANYWAY


def test_the_search_of_the_memory_finds_what_is_there(guest_cache: Path, tmp_path: Path) -> None:
    with campaign(tmp_path, guest("probe", guest_cache).read_bytes()) as running:
        assert running.run("secret_in_memory").outcome == "foiled"
        assert running.run("secret_in_memory", handed_over=running.secret) == Verdict("succeeded", "the secret")


#: Without no_new_privs the kernel grants no seccomp either.
OTHERS = [layer for layer in Layer if layer not in (Layer.SECCOMP, Layer.NO_NEW_PRIVILEGES)]


@pytest.mark.parametrize("layer", OTHERS)
def test_without_one_of_the_others_seccomp_still_stops_everything(table: Table, layer: Layer) -> None:
    if f"-{layer}" not in table:
        pytest.skip("only root's workers have it")
    without = ACCEPTED_WITHOUT_ROOT if layer is Layer.USER else accepted(table)
    assert through(table, f"-{layer}") <= without


def test_without_seccomp_the_others_still_keep_files_processes_and_privileges(table: Table) -> None:
    """Attacks whose success is another's loss: each is stopped by two layers, whoever runs it."""
    reached = through(table, "-seccomp")
    for name in sorted(reached - accepted(table)):
        assert stopping_layers(table, name) == Layer.SECCOMP, name
    assert not reached & STOPPED_TWICE
    if f"-{Layer.USER}" in table:
        assert not reached & STOPPED_TWICE_FOR_ROOT


#: The host's files, memory and processes, and other plugins'.
STOPPED_TWICE = {
    "read_a_file",
    "read_by_openat2",
    "read_by_dirty_number",
    "open_by_handle",
    "create_a_file",
    "append_to_a_file",
    "remove_a_file",
    "module_of_another_plugin",
    "replace_another_plugin",
    "database_of_the_host",
    "memory_of_the_supervisor_by_proc",
    "environment_of_the_supervisor",
    "descriptor_of_the_supervisor_by_proc",
    "read_the_supervisors_memory",
    "write_the_supervisors_memory",
    "take_the_supervisors_descriptor",
    "trace_the_victim",
    "trace_another_plugin",
    "kill_the_victim",
    "kill_another_plugin",
    "queue_a_signal_for_the_victim",
    "signal_by_process_descriptor",
    "signal_by_a_pipe",
    "connect_by_tcp",
    "listen_by_tcp",
    "connect_by_abstract_name",
    "start_a_program",
    "become_root",
    "take_capabilities",
    "mount_memory",
    "classic_escape_from_a_chroot",
}

#: What the jail and the user of its own add.
STOPPED_TWICE_FOR_ROOT = {
    "look_at_a_file",
    "ask_for_access",
    "connect_by_path",
    "send_by_path",
    "command_line_of_the_supervisor",
    "limits_of_the_victim",
    "move_the_victim",
    "schedule_the_victim",
    "lower_the_victims_priority",
    "own_user_namespace_by_clone",
}
