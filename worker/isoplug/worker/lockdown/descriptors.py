"""Own session, no terminal, no inherited descriptors, no inherited environment but one switch."""

from __future__ import annotations

import os

__all__ = ["close_all_but", "close_others", "forget_environment", "leave_terminal"]


def leave_terminal() -> None:
    """A session of its own: Ctrl-C in the host's terminal reaches the host, which drains; it never reaches a worker."""
    os.setsid()


def forget_environment() -> None:
    os.environ.clear()
    # Without this variable wasmtime caches compiled code in the user's cache folder, where a guest that has broken out
    # could put code for the next worker. It has to be there, and empty.
    os.environ["EXTISM_CACHE_CONFIG"] = ""


def close_all_but(*kept: int) -> None:
    """Point standard input and output at /dev/null and close everything else that was inherited, except standard error
    (see ``last_words``) and ``kept``."""
    null = os.open(os.devnull, os.O_RDWR)
    for stdio in (0, 1):
        os.dup2(null, stdio)
    close_others(*kept)


def close_others(*kept: int) -> None:
    """Close everything but the three standard descriptors and ``kept``."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
