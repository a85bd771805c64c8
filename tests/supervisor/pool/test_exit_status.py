"""What is made of a worker's end: rules over facts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import CrashReason, WorkerLimitExceeded
from isoplug.supervisor.pool import ExitReason, Loss
from isoplug.supervisor.pool.exit_status import ExitStatus, readable

MIB = 1 << 20
ABORT, KILL, XCPU = 6, 9, 24


@pytest.mark.parametrize(
    "last_words",
    [
        "memory allocation of 1048576 bytes failed\n",
        "MemoryError, in isoplug.worker.link, line 27",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "FATAL ERROR: OUT OF MEMORY (src/msg.cpp:123)",
        "Cannot allocate memory (src/signaler.cpp:77)",
    ],
)
def test_last_words_that_name_a_failed_allocation_mean_out_of_memory(last_words: str) -> None:
    status = ExitStatus(signal=ABORT, last_words=last_words)
    assert status.reason is CrashReason.OUT_OF_MEMORY
    assert Loss.of(status, "while idle").reason is ExitReason.OUT_OF_MEMORY
    assert last_words.strip() in status.evidence


@pytest.mark.parametrize("last_words", ["", "memory", "no MemoryError here", "memory allocation of some bytes failed"])
def test_other_last_words_do_not(last_words: str) -> None:
    status = ExitStatus(signal=ABORT, last_words=last_words, peak_bytes=512 * MIB, memory_limit_bytes=512 * MIB)
    assert status.reason is CrashReason.SIGNAL
    assert Loss.of(status, "").reason is ExitReason.CRASH


@pytest.mark.parametrize(
    ("signal", "oom_kills", "was_killed", "is_out_of_memory"),
    [
        (KILL, 1, False, True),
        (KILL, 0, False, False),  # somebody with a shell
        (KILL, 1, True, False),  # we
        (ABORT, 1, False, False),
        (None, 1, False, False),
    ],
)
def test_a_kill_that_the_kernel_counted_and_nobody_here_sent_means_out_of_memory(
    signal: int | None, oom_kills: int, was_killed: bool, is_out_of_memory: bool
) -> None:
    status = ExitStatus(signal=signal, oom_kills=oom_kills, was_killed=was_killed)
    assert status.is_out_of_memory is is_out_of_memory
    assert ("for want of memory" in status.evidence) is is_out_of_memory


def test_the_error_reads_as_one_sentence_with_its_evidence() -> None:
    status = ExitStatus(
        signal=ABORT,
        peak_bytes=498 * MIB,
        cpu_seconds=1.25,
        memory_limit_bytes=512 * MIB,
        last_words="memory allocation of 1048576 bytes failed\nnote: run with `RUST_BACKTRACE=1` environment variable",
    )
    error = status.crash("x", "during command 'y'")
    assert str(error) == (
        "the worker of plugin 'x' died: killed by SIGABRT during command 'y': out of memory (memory allocation of "
        "1048576 bytes failed; peak 498 MiB, limits.process_memory is 512 MiB; 1.2 s of CPU)"
    )
    assert (error.reason, error.signal, error.exit_code) == (CrashReason.OUT_OF_MEMORY, ABORT, None)
    assert error.evidence == status.evidence


@pytest.mark.parametrize(
    ("signal", "cpu_seconds", "limit_seconds", "was_killed", "is_out_of_cpu_time"),
    [
        (XCPU, 1.0, 1, False, True),
        (XCPU, None, 1, False, True),
        (KILL, 2.0, 1, False, True),  # it took no notice of the first signal
        (KILL, 0.5, 1, False, False),  # somebody with a shell
        (KILL, 2.0, 1, True, False),  # we
        (XCPU, 1.0, 0, False, False),  # it sent that to itself
        (ABORT, 2.0, 1, False, False),
    ],
)
def test_a_process_that_has_used_up_its_cpu_time_is_told_from_one_that_was_killed(
    signal: int, cpu_seconds: float | None, limit_seconds: int, was_killed: bool, is_out_of_cpu_time: bool
) -> None:
    status = ExitStatus(signal=signal, cpu_seconds=cpu_seconds, cpu_limit_seconds=limit_seconds, was_killed=was_killed)
    assert (status.reason is CrashReason.CPU_TIME) is is_out_of_cpu_time
    assert (Loss.of(status, "").reason is ExitReason.LIMIT) is is_out_of_cpu_time
    error = status.crash("x", "during command 'y'")
    assert isinstance(error, WorkerLimitExceeded) is is_out_of_cpu_time
    if isinstance(error, WorkerLimitExceeded):
        assert (error.key, error.bound) == ("limits.cpu_total", limit_seconds)
        assert "out of CPU time" in str(error)


def test_what_the_kernel_ended_for_want_of_memory_has_not_exceeded_a_limit_of_ours() -> None:
    by_kernel = ExitStatus(signal=KILL, oom_kills=1, memory_limit_bytes=512 * MIB)
    by_itself = ExitStatus(signal=ABORT, last_words="std::bad_alloc", memory_limit_bytes=512 * MIB)
    assert not isinstance(by_kernel.crash("x"), WorkerLimitExceeded)
    assert isinstance(by_itself.crash("x"), WorkerLimitExceeded)


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert ExitStatus().describe("while idle") == "exit status unknown while idle"
    assert ExitStatus().reason is CrashReason.UNKNOWN
    assert ExitStatus(exit_code=3).describe() == "exited with code 3"


def test_wait_statuses_of_the_kernel_are_read() -> None:
    assert ExitStatus().with_wait_status(7 << 8) == ExitStatus(exit_code=7)
    assert ExitStatus().with_wait_status(KILL) == ExitStatus(signal=KILL)
    assert ExitStatus().with_wait_status(ABORT | 0x80) == ExitStatus(signal=ABORT)  # with a core dump


def test_last_words_lose_the_folders_of_this_machine() -> None:
    said = b"panicked at /home/someone/.cargo/registry/src/x.rs:12:3: open '/var/lib/secret/key': /tmp/a/b c"
    assert readable(said) == "panicked at x.rs:12:3: open 'key': b c"


@given(st.binary(max_size=4096))
def test_any_bytes_make_printable_text(said: bytes) -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in readable(said))
    assert len(ExitStatus(last_words=readable(said)).evidence.encode()) <= 310
