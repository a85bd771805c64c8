"""A template that has been taken over says what it likes to its supervisor: it fails its own plugin and nobody else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from conftest import PluginFolder
from isoplug.supervisor import SetupError, Supervisor
from zygotes import zygotes_run

PROBE, LIAR = "test.probe", "test.liar"
MARK = b"this module takes its template over: "

#: What it says when it is asked for its first worker. ``say`` sends words with descriptors.
LIES = {
    "hands over the host as its child": "say('forked', request, host, fds=[os.pidfd_open(host)])",
    "hands over its own parent": "say('forked', request, os.getppid(), fds=[os.pidfd_open(os.getppid())])",
    "hands over itself under another number": "say('forked', request, 1, fds=[os.pidfd_open(os.getpid())])",
    "hands over what is no process": "say('forked', request, os.getpid(), fds=[os.open('/dev/null', os.O_RDONLY)])",
    "answers what nobody asked": "say('refused', request + 7, 'no')",
    "tells of an end of nobody": "say('exited', host, 0, 0, 0.0)",
    "says that it compiles once more": "say('compiled')",
    "says a word that there is not": "say('forge', request)",
    "speaks another language": "control.send(bytes([0xC1]))",
}

TAKEN_OVER = f"""
import os, socket
import msgpack
from isoplug.worker import template
honest, host, lies = template.live, os.getppid(), {LIES!r}

def live(fields, lifeline_fd, control_fd, module_fd):
    wasm = os.pread(module_fd, 1 << 26, 0)
    if {MARK!r} not in wasm:
        return honest(fields, lifeline_fd, control_fd, module_fd)
    control = socket.socket(fileno=control_fd)

    def say(*words, fds=()):
        socket.send_fds(control, [msgpack.packb(words)], fds)

    say("locked", [], {{}})
    say("compiled")
    packet, *_ = socket.recv_fds(control, 1 << 16, 4)
    request = msgpack.unpackb(packet)[0]
    exec(lies[wasm.rpartition({MARK!r})[2].decode()])
    control.recv(1)  # until it is ended
    return 0

template.live = live
"""


@pytest.mark.parametrize("lie", LIES)
def test_a_template_that_lies_harms_its_own_plugin_alone(
    lie: str,
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    zygotes_run(monkeypatch, TAKEN_OVER)
    plugins.add(PROBE)
    plugins.add_bytes(LIAR, b"\0asm\1\0\0\0" + MARK + lie.encode())
    with caplog.at_level(logging.ERROR, "isoplug"):
        supervisor = supervise()
    assert isinstance(supervisor.load_errors[LIAR], SetupError)
    assert "forker.breach" in caplog.text
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
