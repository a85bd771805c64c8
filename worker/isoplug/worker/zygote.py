"""The process that templates are forked from: it has imported everything they and their workers need, and has built
nothing.

One thread, no Extism object, so a fork of it is clean. It ends everything when the supervisor is
gone.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import traceback
from contextlib import suppress

from isoplug.shared.folders import remove_folder
from isoplug.worker import orphans, template
from isoplug.worker.forking import ForkServer
from isoplug.worker.lockdown import lifeline

__all__ = ["main"]


def main(control_fd: int, supervisor_pidfd: int, lifeline_fd: int, runtime_dir: str) -> None:
    """Entry point; the supervisor starts it in a fresh interpreter with an empty environment.

    ``supervisor_pidfd`` tells of the supervisor's death; the lifeline wakes this process when it was stopped.
    """
    lifeline.wake_at_end_of(lifeline_fd)
    orphans.take()
    server = ForkServer(socket.socket(fileno=control_fd), adopts=True)
    gc.freeze()  # children share these pages; a collection there would copy them
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor died while it was being told something
            server.serve(template.live, until_readable=supervisor_pidfd)
    except (OSError, ValueError):
        # A fault of this process: the supervisor reads what it was and starts another one. The others go on, they have
        # the lifeline.
        traceback.print_exc(file=sys.stderr)
    else:
        server.end_children()
        remove_folder(runtime_dir)  # the supervisor may have been killed: nobody else would do it
        os._exit(0)  # it holds nothing any more, and a supervisor that closes waits while an interpreter is taken apart
