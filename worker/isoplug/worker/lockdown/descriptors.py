"""Own session, no terminal, no inherited descriptors, no inherited environment but one switch."""

from __future__ import annotations

import os

__all__ = ["close_all_but", "leave_terminal"]


def leave_terminal() -> None:
    """A session of its own: Ctrl-C in the host's terminal reaches the host, which drains; it never reaches a worker."""
    os.setsid()
    os.environ.clear()
    # Without this variable wasmtime caches compiled code in the user's cache folder, where a guest that has broken out
    # could put code for the next worker. It has to be there, and empty.
    os.environ["EXTISM_CACHE_CONFIG"] = ""


def close_all_but(kept_fd: int) -> None:
    """Point stdio at /dev/null and close everything else the zygote had open, except ``kept_fd``."""
    null = os.open(os.devnull, os.O_RDWR)
    for stdio in (0, 1, 2):
        os.dup2(null, stdio)
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, kept_fd)
    os.closerange(kept_fd + 1, highest)
