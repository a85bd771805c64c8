"""A user id of its own, so that no file, no process and no limit is shared with anybody.

Only root can do this. The id is also the group id, and stands in no user database.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable

from isoplug.worker.lockdown.layer import LayerMissing

__all__ = ["become", "choose", "free_ids"]

#: No convention gives these to anybody: systemd's table of user ids ends its containers' range below and calls what
#: follows unused. 200 million, so that two random ones are the same once in a lifetime.
_UNUSED = range(1_900_000_000, 2_100_000_000)
#: In a user namespace that maps less, the upper end of what it maps, and never the ids of a system's own users.
_LOWEST, _FEWEST = 10_000, 1_000
#: What unmapped users look like, and what 16 bits make of -1.
_NOBODY = range(65_534, 65_536)


def choose() -> int:
    """A random id that nobody else has; read before the jail, which has no /proc. Raises LayerMissing."""
    try:
        mapped = [_extent(line) for line in _lines("/proc/self/uid_map")]
        groups = [_extent(line) for line in _lines("/proc/self/gid_map")]
    except OSError as error:
        raise LayerMissing(f"/proc/self/uid_map cannot be read ({error.strerror}); mount /proc") from error
    return secrets.choice(free_ids(mapped, groups))


def become(uid: int) -> None:
    """Change every user and group id of this process to ``uid`` and leave all groups, for good.

    Raises LayerMissing when that is not permitted.
    """
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise LayerMissing(
            f"a change of user is refused ({error.strerror}); give this container CAP_SETUID and CAP_SETGID"
        ) from error


def free_ids(users: Iterable[range], groups: Iterable[range]) -> range:
    """The ids to choose from, of those that a user namespace maps for users and for groups. Raises LayerMissing."""
    groups = list(groups)
    both = [_overlap(one, other) for one in users for other in groups]
    unused = max((_overlap(ids, _UNUSED) for ids in both), key=len, default=range(0))
    if len(unused) >= _FEWEST:
        return unused
    high = (range(max(ids.start, _LOWEST), ids.stop) for ids in both)
    best = max((ids for part in high for ids in _without_nobody(part)), key=len, default=range(0))
    if len(best) < _FEWEST:
        raise LayerMissing(
            f"this user namespace maps fewer than {_FEWEST} user ids that nobody has; map more of them (subuid(5))"
        )
    return best[len(best) // 2 :]


def _without_nobody(ids: range) -> tuple[range, range]:
    return range(ids.start, min(ids.stop, _NOBODY.start)), range(max(ids.start, _NOBODY.stop), ids.stop)


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


def _extent(line: str) -> range:
    """user_namespaces(7): first id inside, first id outside, how many."""
    first, _, length = map(int, line.split())
    return range(first, first + length)
