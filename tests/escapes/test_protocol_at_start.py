"""A process that is hostile before it has loaded anything: its start ends in a typed error by the deadline, and others
start meanwhile. ``hostile_worker`` has the attacks, this file what has to come of each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench import nothing_left_behind, peak_growth_bytes
from conftest import wait_until
from hostile_worker import AT_START, AT_START_MARK, zygotes_run_hostile_code
from isoplug.shared.errors import CallTimeout, CrashReason, LoadError, PluginError, WorkerCrashed
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.launcher import Launcher
from isoplug.supervisor.pool.worker import Worker

MIB = 1 << 20
GROWTH_BYTES = 128 * MIB
#: Far beyond what any attack below takes that is not meant to last.
PATIENCE_SECONDS = 60.0
LIMITS = Limits()

PREFIXES = ("nothing", "half_a_greeting", "no_ready", "half_a_ready", "half_a_hello", "hello")
#: Nothing came of it until the deadline.
SILENCES = {
    *(f"{prefix}_{end}" for prefix in PREFIXES for end in ("and_silence", "and_sigstop")),
    "never_speaks",
    "stops_before_it_speaks",
    "greets_too_slowly",
    "ready_without_end",
    "greets_with_descriptors",
}
DEATHS = {
    *(f"{prefix}_{end}" for prefix in PREFIXES for end in ("and_death", "and_sigkill")),
    "dies_before_it_speaks",
}
#: It is within the rules, or does not matter.
HARMLESS = {"greets_slowly", "lets_its_child_speak", "loaded_before_load", "a_version_to_come"}
LOAD_ERRORS = {"failed_with_escapes", "failed_at_length"}
#: What a kernel makes of them differs.
URGENT = {"greets_urgently"}
BREACHES = set(AT_START) - SILENCES - DEATHS - HARMLESS - LOAD_ERRORS - URGENT


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def launcher(runtime_base: Path) -> Iterator[Launcher]:
    folder = runtime_base / "start"
    folder.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        zygotes_run_hostile_code(patch)
        launcher = Launcher(folder, Lockdown.OFF, [], [])
        with started(launcher, "greets_slowly"):
            pass
        yield launcher
        launcher.close()
    wait_until(lambda: not folder.exists(), "the runtime folder's end")


@contextmanager
def started(launcher: Launcher, attack: str, timeout: float = PATIENCE_SECONDS) -> Iterator[Worker]:
    template = launcher.template("test.hostile", lambda: AT_START_MARK + attack.encode(), LIMITS)
    try:
        worker = launcher.launch(template, Deadline.after(timeout))
        try:
            yield worker
        finally:
            worker.end()
    finally:
        template.close()


@contextmanager
def flat() -> Iterator[None]:
    """Nothing is left of what was started inside: no descriptor, no process."""
    before, children = descriptors(), len(psutil.Process().children(recursive=True))
    yield
    wait_until(lambda: descriptors() <= before, "closed descriptors")
    wait_until(lambda: len(psutil.Process().children(recursive=True)) <= children, "the processes' end")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def outcome(launcher: Launcher, attack: str, timeout: float = PATIENCE_SECONDS) -> PluginError | None:
    """What came of the start; another one starts meanwhile."""
    caught: list[PluginError | None] = []

    def start() -> PluginError | None:
        try:
            with started(launcher, attack, timeout):
                return None
        except PluginError as error:
            return error

    def both() -> None:
        with ThreadPoolExecutor(1) as thread:
            began = time.monotonic()
            other = thread.submit(start)
            with started(launcher, "greets_slowly"):
                pass
            caught.append(other.result())
            assert time.monotonic() - began < timeout + PATIENCE_SECONDS / 4

    with flat():
        assert peak_growth_bytes(both) < GROWTH_BYTES
    return caught[0]


@pytest.mark.parametrize("attack", sorted(BREACHES))
def test_a_start_that_breaks_the_protocol_is_ended_at_once(launcher: Launcher, attack: str) -> None:
    error = outcome(launcher, attack)
    assert isinstance(error, WorkerCrashed), error
    assert error.reason is CrashReason.PROTOCOL_BREACH
    assert "destroyed" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 5000


@pytest.mark.parametrize("attack", sorted(SILENCES))
def test_a_start_that_gets_nowhere_ends_at_the_deadline(launcher: Launcher, attack: str) -> None:
    error = outcome(launcher, attack, timeout=0.4)
    assert isinstance(error, CallTimeout), error


@pytest.mark.parametrize("attack", sorted(DEATHS))
def test_a_death_during_a_start_is_noticed_at_once(launcher: Launcher, attack: str) -> None:
    error = outcome(launcher, attack)
    assert isinstance(error, WorkerCrashed), error
    assert error.exit_code == 9 or error.signal == 9


@pytest.mark.parametrize("attack", sorted(LOAD_ERRORS))
def test_a_reason_of_any_kind_is_a_load_error(launcher: Launcher, attack: str) -> None:
    error = outcome(launcher, attack)
    assert isinstance(error, LoadError), error
    assert len(str(error)) < 5000


@pytest.mark.parametrize("attack", sorted(HARMLESS))
def test_a_start_that_is_only_unusual_succeeds(launcher: Launcher, attack: str) -> None:
    assert outcome(launcher, attack) is None


@pytest.mark.parametrize("attack", sorted(URGENT))
def test_urgent_bytes_in_a_greeting_end_in_a_typed_error(launcher: Launcher, attack: str) -> None:
    assert isinstance(outcome(launcher, attack, timeout=0.4), (CallTimeout, WorkerCrashed))


def test_a_worker_s_socket_has_no_name_that_anybody_could_find_it_by(launcher: Launcher) -> None:
    with started(launcher, "greets_slowly") as worker:
        opened = [os.readlink(entry) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()]
        (inode,) = {target[len("socket:[") : -1] for target in opened if target.startswith("socket:[")}
        fields = wait_until(lambda: listed(inode), "the socket in the kernel's list")
        assert len(fields) == 7  # an eighth would be its path


def listed(inode: str) -> list[str]:
    """Its line; nothing when the list left it out, which is read in pieces while other sockets come and go."""
    lines = map(str.split, Path("/proc/net/unix").read_text().splitlines())
    return next((fields for fields in lines if fields[6:7] == [inode]), [])
