"""No memory that can be written and executed.

libffi makes such a page for callbacks (Extism's Python package asks for one when it is imported): whoever can write
into this process would write code there. It is only written when a callback is made, so it can be sealed afterwards;
with the ``run`` stage of seccomp nothing becomes executable any more.
"""

from __future__ import annotations

import mmap

from isoplug.worker.lockdown.kernel import mprotect

__all__ = ["seal"]


def seal() -> None:
    """Take the right to write from every mapping that can be executed.

    Afterwards no callback of ctypes or cffi can be made or freed, that is, the process ends by ``os._exit``; those that
    are there go on working. Reads /proc, so it comes before the jail and Landlock.
    """
    with open("/proc/self/maps") as maps:
        found = [line.split()[0] for line in maps if line.split()[1].startswith("rwx")]
    for addresses in found:
        start, end = (int(address, 16) for address in addresses.split("-"))
        mprotect(start, end - start, mmap.PROT_READ | mmap.PROT_EXEC)
