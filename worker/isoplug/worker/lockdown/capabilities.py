"""No capability of root is left, and none can be had.

Two steps, because emptying the bounding set takes a capability that a change of user takes away: ``bound`` before it,
``drop`` after it. A process that is not root has no capabilities to drop and cannot empty its bounding set; it needs
not, since the set says what an exec may give and no_new_privs says that it gives nothing.
"""

from __future__ import annotations

import ctypes
import struct

from isoplug.worker.lockdown.kernel import capget, capset, prctl

__all__ = ["bound", "drop"]

# <linux/prctl.h> and <linux/capability.h>
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_SETPCAP = 8
_HIGHEST = 63  # a set has 64 bits; the kernel refuses a number that it does not know
#: Two times effective, permitted, inheritable: the lower 32 capabilities and the upper ones.
_SETS = struct.Struct("=6I")


def bound() -> None:
    """Empty the bounding set, if this process may."""
    effective, *_ = _held()
    if not effective >> _CAP_SETPCAP & 1:
        return
    for capability in range(_HIGHEST + 1):
        try:
            prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # EINVAL: the one before was the last
            return


def drop() -> None:
    """Give up what is effective, permitted and inheritable; what is ambient has to be both of the latter, so it goes
    with them (capabilities(7))."""
    capset(_header(), _buffer(_SETS.pack(0, 0, 0, 0, 0, 0)))


def _held() -> tuple[int, ...]:
    sets = _buffer(bytes(_SETS.size))
    capget(_header(), sets)
    return _SETS.unpack(sets.raw)


def _header() -> ctypes.Array[ctypes.c_char]:
    return _buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))  # 0: this thread


def _buffer(content: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, len(content))
