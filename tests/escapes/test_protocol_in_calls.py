"""Whatever a process behind the socket sends: its caller gets a typed error in time, the supervisor stays small and
loses no descriptor, another plugin answers meanwhile, and the next call is served by another process.

``hostile_worker`` has the attacks, this file what has to come of each.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bench import PROBE, nothing_left_behind, peak_growth_bytes
from conftest import PluginFolder, Workspace, wait_until
from hostile_worker import ESCAPES, FRAME_BYTES, HALVES, HOSTILE, IN_A_CALL, zygotes_run_hostile_code
from isoplug.shared.limits import FRAME_OVERHEAD_BYTES
from isoplug.shared.lockdown import Lockdown
from isoplug.shared.record import Outcome
from isoplug.supervisor import (
    CallTimeout,
    CommandError,
    CommandNotFound,
    GuestTrap,
    ResourceLimitExceeded,
    Supervisor,
    WorkerCrashed,
)
from isoplug.supervisor.config import Config, Limits, Restart
from isoplug.supervisor.pool import link, pool

MIB = 1 << 20

#: How much the supervisor may grow by in any attack; one whole frame has 32 MiB, is copied once to be parsed, and once
#: out of its message. The bombs would come to gigabytes.
GROWTH_BYTES = 160 * MIB
#: Far beyond what any attack below takes that is not meant to last.
PATIENCE_SECONDS = 60.0
#: Floods are to meet what holds without these: tests/processes/test_limits.py has the limits on them.
LIMITS = Limits(host_calls_per_call=0, log_lines_per_second=0)

#: The worker broke the protocol, and was destroyed for it at once.
BREACHES = {
    "more_flag",
    "multipart",
    "more_flag_on_a_long_frame",
    "multipart_bomb",
    "multipart_bomb_of_nothing",
    "ping",
    "error_command",
    "second_ready",
    "second_greeting",
    "long_command",
    "reserved_bit_3",
    "reserved_bit_7",
    "every_bit",
    "long_of_2_to_the_63",
    "long_of_minus_one",
    "long_of_one_too_many",
    "one_byte_too_many",
    "zero_size",
    "long_zero_size",
    "http",
    "newlines",
    *(f"{half}_{end}" for half in (*HALVES, "nothing") for end in ("and_close", "and_half_close")),
    "another_call",
    "an_old_call",
    "call_zero",
    "a_negative_call",
    "call_2_to_the_64",
    "a_failure_of_another_call",
    "sequence_zero",
    "sequence_ahead",
    "a_negative_sequence",
    "a_replayed_sequence",
    "a_replayed_answer",
    "a_host_call_of_another_call",
    "a_notice_of_another_call",
    "hello_again",
    "loaded_again",
    "load_failed_in_a_call",
    "the_supervisors_answer",
    "the_supervisors_stop",
    "garbage_while_another_plugin_is_asked",
    *(name for name in IN_A_CALL if name.startswith(("a_function_", "a_notice_")) and not name.endswith("may_be")),
    "a_failure_too_huge",
    "a_limit_with_escapes",
    "names_no_limit",
    "no_bytes_of_msgpack",
    "an_empty_array",
    "half_an_array",
    "an_array_in_an_array",
    "half_a_million_arrays",
    "half_a_million_maps",
    "an_array_of_ten_million",
    "an_array_of_four_billion",
    "a_map_of_four_billion",
    "bytes_of_four_billion",
    "text_of_four_billion",
    "a_map",
    "an_empty_map",
    "a_map_of_duplicates",
    "a_map_as_a_field",
    "an_extension",
    "an_empty_extension",
    "a_timestamp",
    "a_timestamp_of_year_many",
    "no_utf8_as_a_name",
    "a_surrogate_as_a_name",
    "nan_as_a_call",
    "a_float_as_a_call",
    "a_boolean_as_a_call",
    "nothing_as_a_call",
    "text_as_output",
    "bytes_as_a_name",
    "a_field_too_many",
    "a_field_too_few",
    "a_trailing_byte",
    "two_messages_in_a_frame",
    "a_tag_unknown",
    "a_tag_negative",
    "a_tag_of_text",
    "a_tag_of_truth",
    "a_tag_of_2_to_the_64",
    "listens_no_more",
    "a_flood_of_frames_at_the_limit",
}
#: The process died, and its caller heard of it at once.
DEATHS = {
    *(f"{half}_{end}" for half in (*HALVES, "nothing") for end in ("and_death", "and_sigkill")),
    "a_death_while_another_plugin_is_asked",
    "a_child_that_goes_on",
}
#: Nothing came of it until the deadline.
SILENCES = {
    *(f"{half}_{end}" for half in (*HALVES, "nothing") for end in ("and_silence", "and_sigstop")),
    "one_byte_in_a_while",
    "a_large_frame_in_single_bytes",
    "ten_thousand_host_calls",
    "a_flood_of_notices",
    "a_flood_of_large_notices",
    "a_flood_while_another_plugin_is_asked",
}
#: It is within the rules, and the worker goes on.
HARMLESS = {
    "long_form_of_a_short_frame",
    "one_byte_at_a_time",
    "ten_thousand_notices",
    "a_notice_as_long_as_may_be",
    "log_lines_with_escapes",
    "events_with_escapes",
    "a_permission_as_a_notice",
    *(name for name in IN_A_CALL if name.startswith("asks_with_")),
    "passes_a_descriptor",
    "passes_253_descriptors_a_hundred_times",
    "passes_its_own_socket",
}
#: Something else, and the type of error.
OTHERS = {
    "a_trap_with_escapes": GuestTrap,
    "a_failure_with_escapes": CommandError,
    "lies_about_a_limit": ResourceLimitExceeded,
    "a_failure_of_no_kind": GuestTrap,
    "a_failure_without_text": GuestTrap,
    "a_huge_trap": GuestTrap,
    "a_huge_failure": CommandError,
    "the_event_no_json": GuestTrap,
    "the_event_deep": GuestTrap,
    "the_log_no_json": GuestTrap,
    "the_log_other_types": GuestTrap,
}
#: While the supervisor sends a whole frame.
UNREAD = {
    "unread_and_silence": CallTimeout,
    "unread_and_sigstop": CallTimeout,
    "unread_and_a_flood": CallTimeout,
    "unread_and_no_more_words": CallTimeout,
    "unread_and_slower": CallTimeout,
    "unread_and_half_close": CallTimeout,  # to which the kernel does not wake a writer
    "unread_and_a_child": (WorkerCrashed, CallTimeout),
    "unread_and_close": WorkerCrashed,
    "unread_and_death": WorkerCrashed,
}
#: After the answer.
IDLE = {name for name in IN_A_CALL if name.startswith("idle_")} | {"two_answers", "an_answer_ahead_of_time"}
URGENT = {"urgent_bytes_and_silence", "a_flood_of_urgent_bytes", "urgent_bytes_within_a_frame"}
APART = {
    "a_child_that_talks_on",
    "a_frame_at_the_limit",
    "an_output_at_the_limit",
    "at_random",
    "behaves",
    "leaves",
    "passes_a_connection_that_lingers",
    "unread_and_slow",
}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("protocol")
    for name in ("plugins", "workspace"):
        (folder / name).mkdir()
    plugins = PluginFolder(folder / "plugins", guest_cache)
    plugins.add(PROBE)
    plugins.add(HOSTILE)
    workspace = Workspace(folder / "workspace").grant(HOSTILE, execute_commands=["all"], read_files=["all"])
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)
    with pytest.MonkeyPatch.context() as patch:
        zygotes_run_hostile_code(patch)
        config = Config(restart=restart, limits=LIMITS, lockdown=Lockdown.OFF)
        with Supervisor(plugins.path, workspace.path, state_dir=folder / "state", config=config) as supervisor:
            assert not supervisor.load_errors
            yield supervisor


class Watch:
    """The hostile plugin's worker before an attack, and what has to be true after it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.plugin = supervisor, supervisor.plugins[HOSTILE]
        self.wait_until_ready()
        self.fds = descriptors()
        (self.pid,) = self.plugin.status.worker_pids

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.plugin.status.state == "ready" and self.plugin.status.worker_pids)

    def require_destroyed(self) -> None:
        wait_until(lambda: not psutil.pid_exists(self.pid), "the worker's end")
        self.require_flat()

    def require_flat(self) -> None:
        self.wait_until_ready()
        wait_until(lambda: descriptors() <= self.fds, "closed descriptors")
        assert self.supervisor.call(PROBE, "echo", b"still here") == b"still here"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def watch(supervisor: Supervisor) -> Watch:
    return Watch(supervisor)


def attacked(
    watch: Watch, attack: str, timeout: float = PATIENCE_SECONDS, data: bytes = b""
) -> tuple[BaseException | bytes, float]:
    """What came of the call, and after how many seconds. Another plugin answers while it lasts."""
    supervisor = watch.supervisor

    def call() -> BaseException | bytes:
        while True:
            try:
                return supervisor.call(HOSTILE, attack, data, timeout=timeout)
            except BaseException as error:  # noqa: BLE001  whatever it is: it is looked at
                if not isinstance(error, CallTimeout) or error.outcome is not Outcome.NOT_DELIVERED:
                    return error
                # A busy machine: the worker has not been asked yet, and so has done nothing.

    outcomes: list[tuple[BaseException | bytes, float]] = []

    def work() -> None:
        with ThreadPoolExecutor(1) as thread:
            began = time.monotonic()
            called = thread.submit(call)
            assert supervisor.call(PROBE, "echo", b"meanwhile") == b"meanwhile"
            outcomes.append((called.result(), time.monotonic() - began))

    assert peak_growth_bytes(work) < GROWTH_BYTES
    return outcomes[0]


def test_every_attack_has_its_outcome_in_this_file() -> None:
    kinds = [BREACHES, DEATHS, SILENCES, HARMLESS, set(OTHERS), set(UNREAD), IDLE, URGENT, APART]
    assert set().union(*kinds) == set(IN_A_CALL)


@pytest.mark.parametrize("attack", sorted(BREACHES))
def test_a_breach_of_the_protocol_destroys_the_worker_at_once(watch: Watch, attack: str) -> None:
    outcome, _ = attacked(watch, attack)
    assert isinstance(outcome, WorkerCrashed), outcome
    assert "destroyed" in str(outcome)
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 5000
    assert (outcome.signal, outcome.exit_code) == (None, None)
    watch.require_destroyed()


@pytest.mark.parametrize("attack", sorted(DEATHS))
def test_a_death_is_noticed_at_once_whatever_was_half_said(watch: Watch, attack: str) -> None:
    outcome, _ = attacked(watch, attack)
    assert isinstance(outcome, WorkerCrashed), outcome
    assert outcome.exit_code == 9 or outcome.signal == 9
    watch.require_destroyed()


@pytest.mark.parametrize("attack", sorted(SILENCES))
def test_what_never_ends_ends_at_the_deadline(watch: Watch, attack: str) -> None:
    outcome, took = attacked(watch, attack, timeout=0.3)
    assert isinstance(outcome, CallTimeout), outcome
    assert took < 0.3 + PATIENCE_SECONDS / 4
    watch.require_destroyed()


def test_the_child_of_a_dead_worker_that_talks_on_holds_up_nobody(watch: Watch) -> None:
    """The death is noticed when there is nothing to read, at the latest at the deadline."""
    outcome, took = attacked(watch, "a_child_that_talks_on", timeout=0.3)
    assert isinstance(outcome, (CallTimeout, WorkerCrashed)), outcome
    assert took < 0.3 + PATIENCE_SECONDS / 4
    watch.require_destroyed()


@pytest.mark.parametrize("attack", sorted(HARMLESS))
def test_what_is_within_the_rules_is_answered(watch: Watch, attack: str) -> None:
    outcome, _ = attacked(watch, attack)
    assert outcome == b"honest"
    watch.require_flat()


@pytest.mark.parametrize("attack", sorted(OTHERS))
def test_texts_of_any_kind_end_in_bounded_errors_of_their_type(watch: Watch, attack: str) -> None:
    outcome, _ = attacked(watch, attack)
    assert type(outcome) is OTHERS[attack], outcome
    assert len(str(outcome)) < 5000
    watch.require_flat()


def test_a_worker_that_lies_about_a_limit_is_not_believed(watch: Watch) -> None:
    outcome, _ = attacked(watch, "lies_about_a_limit")
    assert isinstance(outcome, ResourceLimitExceeded)
    assert (outcome.key, outcome.figure) == ("limits.output", None)


@pytest.mark.parametrize("attack", sorted(URGENT))
def test_urgent_bytes_end_in_a_typed_error_and_burn_nothing(watch: Watch, attack: str) -> None:
    """What a kernel makes of them differs: it refuses, sets them aside, or lets them in."""
    before = time.process_time()
    outcome, took = attacked(watch, attack, timeout=2.0)
    assert isinstance(outcome, (CallTimeout, WorkerCrashed)), outcome
    assert took < PATIENCE_SECONDS / 4
    if "flood" not in attack:  # a thread that is woken again and again computes all the while
        assert time.process_time() - before < 1.5
    watch.require_destroyed()


@pytest.mark.parametrize("attack", sorted(UNREAD))
def test_a_worker_that_does_not_read_a_whole_frame_ends_by_the_deadline(watch: Watch, attack: str) -> None:
    """An end that is to come before the deadline gets a later one: writing down a frame of that size takes a while."""
    timeout = PATIENCE_SECONDS / 4 if UNREAD[attack] is WorkerCrashed else 0.6
    outcome, took = attacked(watch, attack, timeout=timeout, data=bytes(FRAME_BYTES))
    assert isinstance(outcome, UNREAD[attack]), outcome
    assert took < timeout + PATIENCE_SECONDS / 4
    watch.require_destroyed()


def test_a_worker_that_reads_slowly_is_waited_for(watch: Watch) -> None:
    outcome, _ = attacked(watch, "unread_and_slow", data=bytes(FRAME_BYTES))
    assert outcome == b"honest"
    watch.require_flat()


def test_an_output_of_exactly_the_limit_is_an_answer_and_nothing_of_it_stays(watch: Watch) -> None:
    before = psutil.Process().memory_info().rss
    outcome, _ = attacked(watch, "an_output_at_the_limit")
    assert outcome == bytes(FRAME_BYTES)
    del outcome
    assert psutil.Process().memory_info().rss - before < 16 * MIB
    watch.require_flat()


def test_a_frame_of_exactly_the_limit_is_read_and_its_output_too_large(watch: Watch) -> None:
    outcome, _ = attacked(watch, "a_frame_at_the_limit")
    assert isinstance(outcome, ResourceLimitExceeded), outcome
    assert FRAME_BYTES < (outcome.figure or 0) < FRAME_BYTES + FRAME_OVERHEAD_BYTES
    watch.require_flat()


@pytest.mark.parametrize(
    ("attack", "doing"),
    [("unread_and_silence", "send_rest"), ("half_a_frame_and_silence", "receive"), ("nothing_and_sigstop", "receive")],
)
def test_an_interrupt_in_the_middle_of_a_frame_ends_the_call_and_its_worker(
    watch: Watch, attack: str, doing: str
) -> None:
    main = threading.get_ident()

    def waits_for_the_worker() -> bool:
        frame = sys._current_frames()[main]
        return (
            frame.f_code is link.Link._wait.__code__
            and frame.f_back is not None
            and frame.f_back.f_code.co_name == doing
        )

    def interrupt() -> None:
        wait_until(waits_for_the_worker)
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as thread:
        interrupting = thread.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            watch.supervisor.call(HOSTILE, attack, bytes(FRAME_BYTES), timeout=PATIENCE_SECONDS)
        interrupting.result()
    watch.require_destroyed()


def test_an_exit_in_a_call_is_a_crash_also_when_it_is_polite(watch: Watch) -> None:
    outcome, _ = attacked(watch, "leaves")
    assert isinstance(outcome, WorkerCrashed), outcome
    assert outcome.exit_code == 0
    watch.require_destroyed()


def test_a_descriptor_whose_closing_waits_holds_nobody_up(watch: Watch) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setsockopt(socket.SOL_SOCKET, link._SO_PASSRIGHTS, 0)
    except OSError:
        pytest.skip("this kernel cannot refuse descriptors, and closes them in recv(2)")
    outcome, took = attacked(watch, "passes_a_connection_that_lingers")
    assert outcome == b"honest"
    assert took < PATIENCE_SECONDS / 4
    watch.require_flat()


@pytest.mark.parametrize("attack", sorted(IDLE))
def test_a_worker_that_does_anything_while_nobody_asks_gets_no_further_call(watch: Watch, attack: str) -> None:
    outcome, _ = attacked(watch, attack)
    assert outcome == b"honest"
    # Its word may need a moment: until then a call gets an honest answer, or the forged one.
    wait_until(lambda: behaves(watch) and watch.pid not in watch.plugin.status.worker_pids)
    watch.require_destroyed()


def behaves(watch: Watch) -> bool:
    """An honest call, which may meet what the worker did while nobody asked."""
    try:
        answer = watch.supervisor.call(HOSTILE, "behaves", timeout=0.3)
    except (WorkerCrashed, CallTimeout):
        return False
    assert answer in (b"honest", b"forged")
    return answer == b"honest"


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        ("idle_and_computes", "s of CPU while nobody asked it anything"),
        ("idle_and_speaks", "it spoke while nobody asked it"),
    ],
)
def test_a_worker_that_does_not_keep_still_is_destroyed_though_nobody_calls_it(
    watch: Watch, attack: str, says: str
) -> None:
    assert attacked(watch, attack)[0] == b"honest"
    wait_until(lambda: watch.plugin.status.state == "ready" and watch.pid not in watch.plugin.status.worker_pids)
    assert says in (watch.plugin.status.last_failure or "")


@pytest.fixture
def nobody_comes_by(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    keeper = watch.supervisor._loader._keeper
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_LOOK_SECONDS", 1e9)
        keeper.forget(watch.plugin.pool)
        yield
    keeper.visit(watch.plugin.pool)  # and then as ever: the next test may wait for it


@pytest.mark.usefixtures("nobody_comes_by")
def test_a_worker_that_computes_while_nobody_asks_gets_no_further_call(watch: Watch) -> None:
    assert attacked(watch, "idle_and_computes")[0] == b"honest"
    before = watch.plugin.status.cpu_seconds
    wait_until(lambda: watch.plugin.status.cpu_seconds > before + 0.3)
    assert attacked(watch, "behaves")[0] == b"honest"
    assert "s of CPU while nobody asked it anything" in (watch.plugin.status.last_failure or "")
    watch.require_destroyed()


def test_a_worker_that_dies_while_nobody_asks_is_replaced_and_its_end_known(watch: Watch) -> None:
    assert attacked(watch, "idle_and_dies")[0] == b"honest"
    wait_until(lambda: watch.plugin.status.state == "ready" and watch.pid not in watch.plugin.status.worker_pids)
    assert "code 4" in (watch.plugin.status.last_failure or "")


@pytest.mark.parametrize("attack", sorted(name for name in IDLE if name.startswith("idle_and_floods")))
def test_what_floods_while_nobody_asks_is_blocked_by_the_kernel(watch: Watch, attack: str) -> None:
    before = psutil.Process().memory_info().rss
    assert attacked(watch, attack)[0] == b"honest"
    if watch.pid in watch.plugin.status.worker_pids:  # nobody has looked at it yet
        wait_until(lambda: is_blocked(watch.pid), "a full buffer")
    assert psutil.Process().memory_info().rss - before < 16 * MIB
    wait_until(lambda: behaves(watch) and watch.pid not in watch.plugin.status.worker_pids)
    watch.require_destroyed()


def is_blocked(pid: int) -> bool:
    """It waits, and has written no more than a socket's buffer holds; or it was ended for what it does."""
    try:
        written = [written_bytes(pid)]
        for _ in range(5):
            time.sleep(0.01)
            written.append(written_bytes(pid))
        return len(set(written)) == 1 and psutil.Process(pid).status() == psutil.STATUS_SLEEPING and written[0] < MIB
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True


def written_bytes(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def test_no_text_of_a_worker_can_forge_a_log_line(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for attack in (name for name in IN_A_CALL if "escapes" in name):
        outcome, _ = attacked(watch, attack)
        if isinstance(outcome, BaseException) and not isinstance(outcome, GuestTrap):  # a trap's text has lines
            assert str(outcome).isprintable() or ESCAPES in str(outcome)
        watch.wait_until_ready()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("isoplug")]
    assert any("forged" in message for message in messages)
    assert [message for message in messages if not message.isprintable()] == []
    watch.require_flat()


#: More in a longer run.
CASES = int(os.environ.get("ISOPLUG_PROTOCOL_CASES", "60"))
FIRST_CASE = int(os.environ.get("ISOPLUG_PROTOCOL_FIRST_CASE", "0"))


def test_damaged_conversations_end_in_typed_errors_and_cost_nothing(watch: Watch) -> None:
    def conversations() -> None:
        for case in range(FIRST_CASE, FIRST_CASE + CASES):
            began = time.monotonic()
            try:
                answer = watch.supervisor.call(HOSTILE, "at_random", str(case).encode(), timeout=0.2)
            except (WorkerCrashed, CallTimeout, GuestTrap, CommandError, CommandNotFound, ResourceLimitExceeded):
                pass
            except BaseException as error:
                raise AssertionError(f"case {case} ended in {type(error).__name__}: {error}") from error
            else:
                assert len(answer) < 4096, f"case {case}"
            assert time.monotonic() - began < PATIENCE_SECONDS / 4, f"case {case}"

    assert peak_growth_bytes(conversations) < GROWTH_BYTES
    wait_until(lambda: behaves(watch))
    watch.require_flat()
