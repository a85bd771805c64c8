"""The rule that says which wait would never end, and why no set of chains waits for ever.

A chain holds the worker of each plugin that it is inside of, so a chain that waits for a worker may wait, over other
chains, for itself: A → B → A alone, or A → B beside B → A. ``is_stuck`` sees that before the wait begins, and the chain
gets an extra instance instead.

With several workers per plugin such a wait is an OR: any worker of the pool will do. So a chain is stuck when *every*
chain that it reaches over *waits for a pool → chains that hold one of its workers, or are part of a start of one* is
itself waiting, or is the chain itself. A pool with a free worker, or with a start that no chain is part of yet (one
that backs off, for example), moves by itself.

Invariant, under ``LeaseBook.lock``: every waiting chain reaches one that runs, or a pool that moves by itself. Only a
chain that begins to wait can break it, for itself and for those that reach a running chain through it alone, and it
looks first: it waits only when it reaches another running chain, or a pool that moves, which those others then reach as
well. A worker that comes back goes to a chain that runs from then on; for one that is lost or replaced another start
moves the pool, or the pool is closed or quarantined and nobody waits for it. So some chain always runs, until none
waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Waitable", "Waiter", "is_stuck"]


class Waiter(Protocol):
    """A chain, as far as waiting is concerned. Guarded by the book's lock."""

    @property
    def waiting_for(self) -> Waitable | None: ...


class Waitable(Protocol):
    """A pool, as far as waiting is concerned. Read with the book's lock held."""

    @property
    def is_moving(self) -> bool:
        """It will have a free worker without any chain's help."""

    @property
    def holders(self) -> Iterable[Waiter]:
        """The chains by whose end, or by whose next wait for another pool, it gets a free worker."""


def is_stuck(chain: Waiter, pool: Waitable) -> bool:
    """True when ``chain``, waiting for ``pool``, would wait for ever. Call with the book's lock held."""
    seen: set[Waiter] = {chain}
    pools = [pool]
    while pools:
        wanted = pools.pop()
        if wanted.is_moving:
            return False
        for holder in wanted.holders:
            if holder in seen:
                continue
            seen.add(holder)
            if holder.waiting_for is None:
                return False
            pools.append(holder.waiting_for)
    return True
