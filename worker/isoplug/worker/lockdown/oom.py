"""The first to go when the machine runs out of memory.

The kernel ends the process with the highest score. Without this it might be the host program, which is larger than any
of its workers, and which cannot be started again by anybody here. Raising one's own score needs no privilege.
"""

from __future__ import annotations

from contextlib import suppress

__all__ = ["volunteer"]

#: Counts like half of the machine's memory (proc(5), oom_score_adj); Chromium gives its renderers 300.
_SCORE = 500


def volunteer() -> None:
    # Where /proc is read-only, or the score is higher already, this layer is missing and nothing else.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_SCORE))
