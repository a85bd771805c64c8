"""What a zygote is made of: little, and nothing that a fork of it would trip over."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

REPORT = """\
import json, sys, threading
sys.path[:] = json.loads(sys.argv[1])
import isoplug.worker.zygote
print(json.dumps({
    "modules": sorted(sys.modules),
    "threads": [thread.name for thread in threading.enumerate()],
    "kernel_threads": len(__import__("os").listdir("/proc/self/task")),
}))
"""


@pytest.fixture(scope="module")
def zygote() -> dict[str, object]:
    path = json.dumps([entry for entry in sys.path if os.path.isabs(entry)])
    done = subprocess.run(
        [sys.executable, "-I", "-c", REPORT, path], env={}, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "package",
    [
        "isoplug.supervisor",
        "asyncio",
        "click",
        "concurrent.futures.process",
        "cryptography",
        "http.client",
        "httpx",
        "multiprocessing",
        "platformdirs",
        "psutil",
        "pydantic",
        "rich",
        "sqlite3",
        "ssl",
        "structlog",
        "tenacity",
        "urllib.request",
        "yaml",
        "zmq",
    ],
)
def test_a_zygote_has_not_imported(zygote: dict[str, object], package: str) -> None:
    modules = zygote["modules"]
    assert isinstance(modules, list)
    assert [name for name in modules if name == package or name.startswith(package + ".")] == []


def test_of_isoplug_a_zygote_has_imported_the_worker_and_what_is_shared(zygote: dict[str, object]) -> None:
    modules = zygote["modules"]
    assert isinstance(modules, list)
    ours = [name for name in modules if name.startswith("isoplug.")]
    assert {name.split(".")[1] for name in ours} == {"worker", "shared"}


def test_a_zygote_has_one_thread(zygote: dict[str, object]) -> None:
    assert zygote["threads"] == ["MainThread"]
    assert zygote["kernel_threads"] == 1
