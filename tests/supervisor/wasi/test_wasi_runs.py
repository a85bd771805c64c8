"""Real WASI programs in real processes, with small bounds: each ends, says why, and leaves nothing."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import wasmtime

from conftest import wait_until, wasi_programs
from guests.wasi import wasi_program
from isoplug.shared.errors import PluginError, ResourceLimitExceeded, ServiceError, SupervisorClosed
from isoplug.shared.lockdown import Lockdown
from isoplug.shared.wasi import Order
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.wasi import MAX_ENTRIES, Outcome, Program, WasiLimits, WasiRunner, scratch_path
from isoplug.supervisor.wasi.process import WasiProcess
from isoplug.supervisor.wasi.scratch import Scratch

MIB = 1 << 20
LIMITS = WasiLimits(memory_bytes=64 * MIB, output_bytes=MIB, scratch_bytes=16 * MIB, answer_bytes=4 * MIB, runs=2)


@dataclass
class Runs:
    """A runner and the folder that its runs have theirs in. ``worker`` stands for the process that asked: the read end
    of a pipe, which becomes readable when ``end_worker`` closes the other one."""

    runner: WasiRunner
    folder: Path
    wasm: bytes
    worker: tuple[int, int] = field(default_factory=os.pipe)

    def __call__(
        self, *arguments: str, wasm: bytes | None = None, timeout: float = 60.0, watch: Any = None, **more: Any
    ) -> Outcome:
        for name in ("files", "outputs"):
            given = more.pop(name, ())
            items = given.items() if isinstance(given, dict) else ((one, None) for one in given)
            more[name] = {
                (scratch_path(key) if name == "files" else key): (value if name == "files" else scratch_path(key))
                for key, value in items
            }
        caller = Caller("test.probe", Deadline.after(timeout), watch or (lambda: os.dup(self.worker[0])))
        return self.runner.run(caller, Program(self.wasm if wasm is None else wasm, arguments, **more))

    def end_worker(self) -> None:
        os.close(self.worker[1])

    def mark(self, name: str) -> list[Path]:
        """Files of that name in the folders of runs: a program that made one is running."""
        return list(self.folder.glob(f"wasi-*/{name}"))


@contextmanager
def opened(folder: Path, cache: Path, limits: WasiLimits = LIMITS) -> Iterator[Runs]:
    runs = Runs(WasiRunner(folder, limits), folder, wasi_program(cache))
    try:
        yield runs
        assert list(folder.iterdir()) == []
        assert wasi_programs(psutil.Process()) == []
    finally:
        runs.runner.close()
        for fd in runs.worker:
            with suppress(OSError):
                os.close(fd)


@pytest.fixture
def runs(tmp_path: Path, guest_cache: Path) -> Iterator[Runs]:
    with opened(tmp_path, guest_cache) as runs:
        yield runs


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "name"), [("out", "standard output"), ("err", "standard error")])
def test_a_program_that_writes_without_end_is_stopped_at_the_bound(stream: str, name: str, runs: Runs) -> None:
    with pytest.raises(ResourceLimitExceeded, match=rf"{name} in bytes is \d+, the limit is {MIB}; see wasi\.output"):
        runs("flood", stream)


def test_output_up_to_the_bound_is_whole_and_one_byte_more_is_refused(runs: Runs) -> None:
    assert runs("print", str(MIB)).stdout == b"x" * MIB
    with pytest.raises(ResourceLimitExceeded, match="standard output"):
        runs("print", str(MIB + 1))


@pytest.mark.parametrize("how", ["kept", "deleted but open"])
def test_a_program_that_fills_its_folder_is_stopped_also_when_it_deletes_what_it_holds_open(
    how: str, runs: Runs
) -> None:
    with pytest.raises(ResourceLimitExceeded, match=r"see wasi\.scratch"):
        runs("fill", how)


def test_one_file_ends_at_the_bound_whoever_looks(runs: Runs) -> None:
    outcome = runs("grow")
    assert (outcome.exit_code, outcome.stderr) == (4, str(LIMITS.scratch_bytes).encode())  # EFBIG


def test_a_program_that_makes_files_without_end_is_stopped(runs: Runs) -> None:
    with pytest.raises(ResourceLimitExceeded, match=f"more than {MAX_ENTRIES} files"):
        runs("many")


def test_a_folder_that_the_program_replaces_by_a_link_while_it_is_measured_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "b" / "huge").write_bytes(b"x" * MIB)
    scan = os.scandir

    def swap(folder: Any) -> Any:
        place = scratch.path / "a"
        if not place.is_symlink() and os.path.samestat(os.stat(folder), place.stat()):  # it is being listed
            place.rename(scratch.path / "away")
            place.symlink_to(outside)
        return scan(folder)

    with Scratch(tmp_path) as scratch:
        (scratch.path / "a" / "b").mkdir(parents=True)
        monkeypatch.setattr(os, "scandir", swap)
        scratch.require_bounds(os.getpid(), MIB // 2)
        monkeypatch.undo()
        assert (scratch.path / "a").is_symlink()
    assert (outside / "b" / "huge").exists()


@pytest.mark.parametrize("levels", [100, 3000])
def test_folders_in_each_other_are_removed_however_deep(levels: int, runs: Runs) -> None:
    with suppress(ResourceLimitExceeded):  # it may be found out while it runs
        runs("nest", str(levels))
    assert list(runs.folder.iterdir()) == []


def test_a_program_gets_the_memory_of_the_bound_and_no_more(runs: Runs) -> None:
    outcome = runs("allocate")
    pages_of_its_own = 17  # at most: its stack and its data
    granted = int(outcome.stdout)
    assert LIMITS.memory_bytes // MIB - pages_of_its_own <= granted < LIMITS.memory_bytes // MIB


def test_a_module_that_asks_for_more_memory_than_the_bound_is_refused(runs: Runs) -> None:
    with pytest.raises(ServiceError, match=r"cannot be run: .*memory limits"):
        runs(wasm=wasmtime.wat2wasm('(module (memory 1025) (func (export "_start")))'))


def test_a_module_whose_compilation_needs_too_much_memory_costs_its_process_only(
    tmp_path: Path, guest_cache: Path
) -> None:
    body = "".join(f"(if (local.get 0) (then (local.set 0 (call 0 (i32.const {n})))))" for n in range(30_000))
    wasm = wasmtime.wat2wasm(f'(module (func (param i32) (result i32) {body} (local.get 0)) (func (export "_start")))')
    small = WasiLimits(16 * MIB, MIB, MIB, MIB, runs=1)
    with opened(tmp_path, guest_cache, small) as runs, pytest.raises(ServiceError, match="ran out of memory"):
        runs(wasm=bytes(wasm))


def test_output_files_beyond_the_bound_are_refused(runs: Runs) -> None:
    with pytest.raises(ResourceLimitExceeded, match=f"larger than {LIMITS.answer_bytes} bytes together"):
        runs("grow", outputs=["big"])


@pytest.mark.parametrize("kind", ["files", "outputs"])
def test_more_names_than_a_folder_may_hold_are_refused_before_anything_runs(kind: str, runs: Runs) -> None:
    names = [f"a/b/{number}" for number in range(MAX_ENTRIES // 3 + 1)]
    with pytest.raises(ResourceLimitExceeded, match="number of files and folders"):
        runs("exit", "0", **{kind: dict.fromkeys(names, b"")})


# --- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_the_deadline_ends_what_computes_and_what_waits(how: str, runs: Runs) -> None:
    with pytest.raises(ServiceError, match="time that was left"):
        runs(how, timeout=0.5)


def test_files_are_written_no_longer_than_there_is_time(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        with pytest.raises(ServiceError, match="time is up"):
            scratch.fill({scratch_path("a"): b"x"}, Deadline(at=0.0, timeout_seconds=1.0))
        assert list(scratch.path.iterdir()) == []


@pytest.fixture
def spinning(runs: Runs) -> Iterator[Callable[[], Any]]:
    """A program that runs already; the value waits for what its caller gets."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(runs, "spin", "here")
        wait_until(lambda: runs.mark("here"), "the program to run")
        yield lambda: future.result(20)


def test_the_end_of_the_worker_that_asked_ends_the_program(runs: Runs, spinning: Callable[[], Any]) -> None:
    runs.end_worker()
    with pytest.raises(ServiceError, match="worker has ended"):
        spinning()


def test_closing_the_runner_ends_what_runs_and_starts_nothing_more(runs: Runs, spinning: Callable[[], Any]) -> None:
    runs.runner.close()
    with pytest.raises(ServiceError, match="killed by SIGKILL"):
        spinning()
    with pytest.raises(SupervisorClosed):
        runs("exit", "0")


def test_a_program_that_is_killed_by_somebody_else_is_an_error_that_says_so(
    runs: Runs, spinning: Callable[[], Any]
) -> None:
    (process,) = wasi_programs(psutil.Process())
    process.kill()
    with pytest.raises(ServiceError, match=r"ended without a result \(killed by SIGKILL\)"):
        spinning()


def test_an_interrupted_caller_leaves_nothing(runs: Runs) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def later() -> None:
        wait_until(lambda: runs.mark("here"))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    helper = threading.Thread(target=later)
    helper.start()
    try:
        with pytest.raises(Interrupted):
            runs("spin", "here")
    finally:
        helper.join()
        signal.signal(signal.SIGUSR1, before)


# --- taking turns ---------------------------------------------------------------------------------------------------


@pytest.fixture
def one_at_a_time(tmp_path: Path, guest_cache: Path) -> Iterator[tuple[Runs, Callable[[], Any]]]:
    """A runner whose only place is taken, and what frees it."""
    limits = WasiLimits(64 * MIB, MIB, MIB, MIB, runs=1)
    with opened(tmp_path, guest_cache, limits) as runs, ThreadPoolExecutor() as pool:
        first = pool.submit(runs, "spin", "here")
        wait_until(lambda: runs.mark("here"))

        def free() -> None:
            for process in wasi_programs(psutil.Process()):
                process.kill()
            with suppress(PluginError):
                first.result(20)

        yield runs, free
        free()


def test_a_run_waits_for_its_turn_and_no_longer_than_its_deadline(
    one_at_a_time: tuple[Runs, Callable[[], Any]],
) -> None:
    runs, free = one_at_a_time
    with pytest.raises(ServiceError, match=r"see wasi\.runs"):
        runs("exit", "3", timeout=0.2)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(runs, "exit", "3")
        free()
        assert second.result(20).exit_code == 3


def test_a_run_whose_worker_ends_gives_up_its_turn(one_at_a_time: tuple[Runs, Callable[[], Any]]) -> None:
    runs, _ = one_at_a_time
    reading, writing = os.pipe()
    os.close(writing)
    try:
        with pytest.raises(ServiceError, match="worker has ended"):
            runs("exit", "3", watch=lambda: os.dup(reading))
        assert runs.mark("here")  # the place is still taken
    finally:
        os.close(reading)


def test_a_process_that_is_stopped_while_it_boots_dies_when_its_host_is_gone(tmp_path: Path) -> None:
    lifeline = Lifeline()
    order = Order(b"", [], str(tmp_path), MIB, 64 * MIB, MIB, 60, Lockdown.BEST_EFFORT)
    try:
        with WasiProcess(order, b"", lifeline, 1_000) as process:
            os.kill(process.pid, signal.SIGSTOP)
            lifeline.cut()  # what the kernel does for a host that was killed
            poll = select.poll()
            poll.register(process.pidfd, select.POLLIN)
            assert poll.poll(20_000)
    finally:
        lifeline.close()


# --- the process ----------------------------------------------------------------------------------------------------


def test_the_process_of_a_program_has_nothing_of_the_host(
    runs: Runs, spinning: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (process,) = wasi_programs(psutil.Process())
    proc = Path(f"/proc/{process.pid}")
    assert proc.joinpath("environ").read_bytes() == b""
    assert Path(process.cwd()).parent == runs.folder  # its own
    assert os.getsid(process.pid) == process.pid
    targets = [os.readlink(entry) for entry in (proc / "fd").iterdir()]
    kinds = {target.partition(":[")[0] if target.startswith("pipe") else target for target in targets}
    scratch = {target for target in kinds if target.startswith(str(runs.folder))}
    memory = {target for target in kinds if target.startswith(("/memfd:", "anon_inode:[event"))}
    assert kinds - scratch - memory == {"pipe"}
    assert scratch
    limits = {line[:26].strip(): line[26:47].strip() for line in (proc / "limits").read_text().splitlines()}
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == str(LIMITS.scratch_bytes)
    assert limits["Max data size"] == str(LIMITS.memory_bytes + 64 * MIB)
    assert limits["Max open files"] == "256"
    assert limits["Max cpu time"].isdecimal()
    runs.end_worker()
    with pytest.raises(ServiceError):
        spinning()


def test_the_runtime_starts_the_same_few_threads_however_many_cores_there_are(runs: Runs) -> None:
    def names() -> list[str]:
        return [
            (task / "comm").read_text()
            for p in wasi_programs(psutil.Process())
            for task in Path(f"/proc/{p.pid}/task").iterdir()
        ]

    with ThreadPoolExecutor() as pool:
        future = pool.submit(runs, "sleep")
        wait_until(
            lambda: len(names()) >= 4 and any(name.startswith("tokio") for name in names()), "the program to run"
        )
        time.sleep(0.2)  # further ones would start now
        threads = names()
        runs.end_worker()
        with pytest.raises(ServiceError, match="worker has ended"):
            future.result(20)
    assert len(threads) == 4, threads  # its own, two that compile, one that waits for input and output


def test_running_programs_leaves_no_compiled_code_and_no_file_anywhere(
    runs: Runs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")  # in the user's own, others may leave some at the same time
    popen, environment = subprocess.Popen, {"HOME": str(home)}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen(command, **how | {"env": environment}))
    assert runs("exit", "0").exit_code == 0
    assert list(home.iterdir()) == []


def test_a_runner_that_runs_nothing_has_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    runner = WasiRunner(tmp_path, LIMITS)
    assert os.listdir("/proc/self/fd") == before
    runner.close()


def test_nothing_starts_for_a_worker_that_has_ended_and_been_forgotten(runs: Runs) -> None:
    def gone() -> int:
        raise ServiceError("the plugin's worker has ended")

    with pytest.raises(ServiceError, match="worker has ended"):
        runs("exit", "0", watch=gone)


@pytest.mark.parametrize("free", range(0, 26, 2))
def test_too_few_descriptors_are_an_error_that_says_so(free: int, runs: Runs) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 100, hard))
    taken: list[int] = []
    said = ""
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        runs("exit", "0")
    except ServiceError as error:
        said = str(error)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said or free >= 16  # watch, lifeline, put aside, order, input, three pipes, and what Popen needs to start
    assert not said or free < 20, said
    assert "descriptor" in said or not said
    assert str(runs.folder) not in said


# --- a process that was taken over ------------------------------------------------------------------------------------

# Stands in for the runtime: whoever breaks out of it can do what the process can, such as write to every pipe.
TAKEN_OVER = """
import os, time
for fd in range(3, 64):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            os.write(fd, WORDS)
    except OSError:
        pass
os._exit(CODE)
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (b"", 0, r"without a result \(exited with code 0\)"),
        (b"", 7, r"without a result \(exited with code 7\)"),
        (b"nonsense", 0, "no result"),
        (b"\xff\xfe\x00", 0, "no result"),
        (b"exited\n", 0, "no result"),
        (b"exited\n--5", 0, "no result"),
        (b"exited\n" + b"9" * 4000, 0, "no result"),
        (b"exited\n\xd9\xa3", 0, "no result"),
        (b"x" * 60_000, 0, "the program's result in bytes"),
        (b"trapped\n" + b"\xff" * 4000, 0, "trapped"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_whatever_the_process_says_its_caller_gets_a_typed_error(
    words: bytes, code: int, message: str, runs: Runs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    fake = tmp_path_factory.mktemp("fake")
    (fake / "wasmtime.py").write_text(TAKEN_OVER.replace("WORDS", repr(words)).replace("CODE", str(code)))
    monkeypatch.syspath_prepend(fake)
    with pytest.raises((ServiceError, ResourceLimitExceeded), match=message):
        runs("exit", "0")
