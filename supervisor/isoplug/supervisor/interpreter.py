"""A fresh interpreter for a process of isoplug's own.

It is isolated (``-I``: no PYTHON* variables, no user site, no current folder) and told where the packages of this one
are. Forking from the host instead would copy every secret in its memory into every worker.

Nor does it keep what the host has blocked or ignored, which processes inherit: ``SIGCHLD`` would take from a zygote
what the kernel has counted of its children, ``SIGXCPU`` from a worker its limit of CPU time, ``SIGPROF`` from a timer
thread what wakes it; with ``SIGILL`` blocked, each trap of a guest would be a crash.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["fresh_interpreter"]

#: Without looking for garbage while it imports, which leaves none: a tenth of the time that a start of it takes.
_SCRIPT: Final = """\
import gc, json, signal, sys
gc.disable()
signal.pthread_sigmask(signal.SIG_SETMASK, ())
for number in (signal.SIGCHLD, signal.SIGXCPU):
    signal.signal(number, signal.SIG_DFL)
arguments = json.loads(sys.argv[1])
sys.path[:] = arguments.pop("path")
from {module} import main
gc.enable()
main(**arguments)
"""


def fresh_interpreter(module: str, arguments: Mapping[str, Any]) -> list[str]:
    """The command line of a process that calls ``main(**arguments)`` of ``module``; they are JSON, and none of them is
    called ``path``."""
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    return [sys.executable, "-I", "-c", _SCRIPT.format(module=module), json.dumps({"path": path, **arguments})]
