"""Native code in the process of a WASI program: it has its folder, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conftest import is_alive, wait_until

#: What a program that has broken out of its runtime would run. Everything it needs was imported before the lock.
SCRIPT = """
import ctypes, json, os, resource, socket, sys
sys.path[:] = json.loads(sys.argv[1])
from isoplug.shared.lockdown import Lockdown
from isoplug.worker.lockdown import program
import wasmtime
libc = ctypes.CDLL(None, use_errno=True)
protection = program.lock(sys.argv[2], Lockdown(sys.argv[3]))
print(json.dumps([list(protection.applied), dict(protection.missing)]), flush=True)
folder = '.'
attack = compile(sys.argv[4], "attack", "exec")
try:
    exec(attack)
except OSError as error:
    os.write(1, f"OSError {error.errno}".encode())
    os._exit(3)
os.write(1, b"done")
os._exit(0)
"""

#: Ends by SIGSYS: not one of its system calls.
KILLED = {
    "makes a socket": "socket.socket()",
    "makes a unix socket": "socket.socket(socket.AF_UNIX)",
    "forks": "os.fork()",
    "starts a program": "os.execv('/bin/sh', ['sh'])",
    "traces its parent": "libc.ptrace(16, os.getppid(), 0, 0)",
    "reads another process": "libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0)",
    "kills its parent": "os.kill(os.getppid(), 9)",
    "kills everybody": "os.kill(-1, 0)",
    "mounts": "libc.mount(b'none', b'/', b'tmpfs', 0, None)",
    "leaves its namespaces": "libc.unshare(0x10000000)",
    "changes its root": "os.chroot('.')",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))",
    "makes a device": "os.mknod(folder + '/device', 0o020666, os.makedev(1, 3))",
    "makes code": "import_mmap = libc.mmap(None, 4096, 7, 0x22, -1, 0)",
    "changes the owner of a file": "os.chown(folder, 0, 0)",
    "asks for bpf": "libc.syscall(321, 0, 0, 0)",
    "asks for io_uring": "libc.syscall(425, 1, 0)",
}
#: Ends with an error.
REFUSED = {
    "reads a file of the machine": "os.open('/etc/passwd', os.O_RDONLY)",
    "reads a file above its folder": "os.open(folder + '/../secret', os.O_RDONLY)",
    "reads about itself": "os.open('/proc/self/maps', os.O_RDONLY)",
    "writes into /tmp": "os.open('/tmp/isoplug-escape', os.O_WRONLY | os.O_CREAT)",
}
#: What it may do.
ALLOWED = "fd = os.open(folder + '/mine', os.O_RDWR | os.O_CREAT); os.write(fd, b'x'); os.ftruncate(fd, 0)"


def run(tmp_path: Path, attack: str, mode: str = "best-effort") -> tuple[int, str, list[object]]:
    """Exit code, what it said, and what it had been given."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "given").write_text("content")
    (tmp_path / "secret").write_text("of the host")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, json.dumps(sys.path), str(folder), mode, attack],
        env={},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    first, _, rest = done.stdout.partition("\n")
    assert first, done.stderr
    return done.returncode, rest, json.loads(first)


@pytest.fixture(scope="module")
def has_everything(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, _, (_, missing) = run(tmp_path_factory.mktemp("probe"), "pass")
    if missing:
        pytest.skip(f"this machine lacks {missing}")


@pytest.mark.parametrize("attack", KILLED.values(), ids=list(KILLED))
def test_a_program_that_makes_a_call_that_is_none_of_its_own_is_killed(
    attack: str, tmp_path: Path, has_everything: None
) -> None:
    code, said, _ = run(tmp_path, attack)
    assert (code, said) == (-signal.SIGSYS, "")


@pytest.mark.parametrize("attack", REFUSED.values(), ids=list(REFUSED))
def test_a_program_finds_nothing_outside_its_folder(attack: str, tmp_path: Path, has_everything: None) -> None:
    code, said, _ = run(tmp_path, attack)
    assert code == 3, said


def test_a_program_that_writes_above_its_folder_writes_into_it_or_nowhere(tmp_path: Path, has_everything: None) -> None:
    run(tmp_path, "os.open(folder + '/../new', os.O_WRONLY | os.O_CREAT)")
    assert not (tmp_path / "new").exists()


def test_a_program_uses_its_folder_and_what_was_put_there(tmp_path: Path, has_everything: None) -> None:
    reads = "assert os.read(os.open(folder + '/given', os.O_RDWR), 9) == b'content'; "
    assert run(tmp_path, reads + ALLOWED, "full")[:2] == (0, "done")


PARENT = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-I", "-c", *sys.argv[1:]], env={}, cwd="/", stdout=sys.stdout)
print(process.pid, flush=True)
process.wait()
"""


def test_a_program_that_closes_every_descriptor_dies_with_whoever_started_it(
    tmp_path: Path, has_everything: None
) -> None:
    attack = "import time; [libc.close(fd) for fd in range(3, 256)]; os.write(1, b'closed\\n'); time.sleep(600)"
    arguments = [SCRIPT, json.dumps(sys.path), str(tmp_path), "best-effort", attack]
    with subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline().startswith("[")
        assert parent.stdout.readline() == "closed\n"
        program = psutil.Process(pid)
        parent.kill()
    try:
        wait_until(lambda: not is_alive(program))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


@pytest.mark.parametrize("attack", ["socket.socket()", "os.open('/etc/passwd', os.O_RDONLY)", ALLOWED])
def test_without_the_lock_the_same_succeeds(attack: str, tmp_path: Path) -> None:
    assert run(tmp_path, attack, "off") == (0, "done", [[], {}])
