"""What the kernel says about a running worker and its zygote (/proc)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from conftest import PluginFolder
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, Limits

PROBE = "test.probe"
MIB = 1 << 20


@pytest.fixture
def pid(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> int:
    plugins.add()
    limits = Limits(open_files=40, process_memory=200 * MIB, wasm_memory=64 * MIB)
    supervisor = supervise(config=Config(limits=limits))
    supervisor.call(PROBE, "echo", b"a call, so that everything lazy is there")
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    return pid


@pytest.fixture
def visible(plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch) -> int:
    """A worker that this user may look into: when that is not root, one that is not locked."""
    monkeypatch.setenv("ISOPLUG_TEST_SECRET", "in the host's environment")
    plugins.add()
    supervisor = supervise(config=Config(lockdown=Lockdown.BEST_EFFORT if os.geteuid() == 0 else Lockdown.OFF))
    supervisor.call(PROBE, "echo", b"a call, so that everything lazy is there")
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    return pid


def template_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


def zygote_of(pid: int) -> int:
    return psutil.Process(template_of(pid)).ppid()


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def test_a_worker_is_a_child_of_its_template_that_of_the_zygote_and_that_of_the_supervisor(pid: int) -> None:
    assert psutil.Process(zygote_of(pid)).ppid() == os.getpid()


def test_the_environment_of_the_host_reaches_neither_zygote_nor_worker(visible: int) -> None:
    for process in (visible, template_of(visible), zygote_of(visible)):
        environment = Path(f"/proc/{process}/environ").read_bytes()
        assert [entry for entry in environment.split(b"\0") if entry] in ([], [b"EXTISM_CACHE_CONFIG="])


def test_input_and_output_of_a_worker_are_dev_null_and_its_standard_error_is_a_small_pipe(visible: int) -> None:
    assert {os.readlink(f"/proc/{visible}/fd/{fd}") for fd in (0, 1)} == {"/dev/null"}
    fd = os.open(f"/proc/{visible}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == 4096
    finally:
        os.close(fd)


def test_a_worker_is_the_first_that_the_kernel_ends_when_memory_runs_out(pid: int) -> None:
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
    assert int(Path(f"/proc/{zygote_of(pid)}/oom_score_adj").read_text()) < 500


def test_a_worker_has_no_descriptor_beyond_its_socket_its_pipes_and_its_runtime(visible: int) -> None:
    targets = [os.readlink(entry) for entry in Path(f"/proc/{visible}/fd").iterdir()]
    kinds = [target.partition(":[")[0] if target.startswith(("pipe", "socket")) else target for target in targets]
    assert kinds.count("pipe") == 2  # lifeline and standard error
    assert kinds.count("socket") == 1
    own = {"anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/memfd:wasm-memory-image (deleted)"}
    assert set(kinds) <= {"/dev/null", "pipe", "socket"} | own
    assert len(kinds) <= 16


def test_a_worker_leads_a_session_of_its_own(pid: int) -> None:
    assert os.getsid(pid) == pid
    assert os.getpgid(pid) == pid
    assert len({os.getsid(process) for process in (0, zygote_of(pid), template_of(pid), pid)}) == 4


def test_the_limits_of_a_worker_are_set_and_hard(pid: int) -> None:
    limits = limits_of(pid)
    assert limits["Max core file size"] == ("0", "0")
    assert limits["Max open files"] == ("40", "40")
    assert limits["Max data size"] == (str(200 * MIB), str(200 * MIB))
    assert limits["Max stack size"][1] == str(8 * MIB)  # what the limit of data does not count
    assert limits["Max address space"] == (str(64 << 30), str(64 << 30))  # and its page tables


def test_no_worker_writes_compiled_code_to_the_cache_of_the_user(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    cache = Path.home() / ".cache" / "wasmtime"
    before = {path for path in cache.rglob("*") if path.is_file()}
    wasm = plugins.add().read_bytes()
    # A custom section that no other run has had makes it a module that no cache can know.
    name = os.urandom(8).hex().encode()
    (plugins.path / PROBE / "plugin.wasm").write_bytes(wasm + b"\0" + bytes([len(name) + 1, len(name)]) + name)
    supervisor = supervise()
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    supervisor.close()
    assert {path for path in cache.rglob("*") if path.is_file()} <= before


ARM_TOO_LATE = """\
import os, signal
from isoplug.worker.lockdown import lifeline
read, write = os.pipe()
os.close(write)
lifeline.tie(read, signal.SIGKILL)
print("still alive")
"""

ARM_IN_TIME = """\
import os, signal
from isoplug.worker.lockdown import lifeline
read, write = os.pipe()
lifeline.tie(read, signal.SIGKILL)
print("armed", flush=True)
os.close(write)
while True: pass
"""


@pytest.mark.parametrize(("script", "output"), [(ARM_TOO_LATE, ""), (ARM_IN_TIME, "armed\n")])
def test_the_lifeline_kills_whether_the_supervisor_dies_before_or_after_it_is_armed(script: str, output: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-9, output)
