"""No set of chains waits for ever: the rule against random schedules of a model without threads and processes, and
against another way to tell which wait is hopeless."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.supervisor.pool.deadlock import is_stuck


@dataclass(eq=False)
class ModelPool:
    """``free`` workers, those that ``holders_of`` has, and starts: of a chain, or None while they back off."""

    free: int
    lent: list[ModelChain] = field(default_factory=list)
    starts: list[ModelChain | None] = field(default_factory=list)
    queue: deque[ModelChain] = field(default_factory=deque)

    @property
    def is_moving(self) -> bool:
        return self.free > 0 or None in self.starts

    @property
    def holders(self) -> Iterator[ModelChain]:
        yield from self.lent
        yield from (chain for chain in self.starts if chain is not None)

    def serve_queue(self) -> None:
        while self.free and self.queue:
            chain = self.queue.popleft()
            chain.waiting_for = None
            self.lend(chain)

    def lend(self, chain: ModelChain) -> None:
        self.free -= 1
        self.lent.append(chain)
        chain.held.append(self)


@dataclass(eq=False)
class ModelChain:
    """``program``: the pool to enter, or None to leave the innermost. ``starts``: it is the ``init`` of a worker."""

    program: deque[ModelPool | None]
    starts: ModelPool | None = None
    waiting_for: ModelPool | None = None
    held: list[ModelPool | None] = field(default_factory=list)  # None: an extra instance

    @property
    def is_over(self) -> bool:
        return not self.program


@dataclass
class World:
    pools: list[ModelPool]
    chains: list[ModelChain]
    extras: int = 0

    def runnable(self) -> list[ModelChain | ModelPool]:
        """Who can take a step: chains that do not wait, and pools with a start that backs off."""
        chains = [chain for chain in self.chains if not chain.is_over and chain.waiting_for is None]
        return [*chains, *(pool for pool in self.pools if None in pool.starts)]

    def step(self, mover: ModelChain | ModelPool, data: st.DataObject) -> None:
        if isinstance(mover, ModelPool):
            self.begin_start(mover, data)
        elif (wanted := mover.program[0]) is not None:
            mover.program.popleft()
            self.enter(mover, wanted)
        else:
            mover.program.popleft()
            self.leave(mover, data)
        if isinstance(mover, ModelChain) and mover.is_over and mover.starts is not None:
            mover.starts.starts.remove(mover)
            mover.starts.free += 1
            mover.starts.serve_queue()

    def enter(self, chain: ModelChain, pool: ModelPool) -> None:
        if pool.free and not pool.queue:
            pool.lend(chain)
            return
        assert is_stuck(chain, pool) == self.is_hopeless(chain, pool)
        if is_stuck(chain, pool):
            self.extras += 1
            chain.held.append(None)
        else:
            chain.waiting_for = pool
            pool.queue.append(chain)

    def leave(self, chain: ModelChain, data: st.DataObject) -> None:
        pool = chain.held.pop()
        if pool is None:
            return
        pool.lent.remove(chain)
        if data.draw(st.booleans(), "its worker is lost"):
            pool.starts.append(None)
        else:
            pool.free += 1
            pool.serve_queue()

    def begin_start(self, pool: ModelPool, data: st.DataObject) -> None:
        """What a guest does in ``init`` may be to call others."""
        calls = data.draw(st.lists(st.sampled_from(self.pools), max_size=2), "init calls")
        program: deque[ModelPool | None] = deque()
        for called in calls:
            program += [called, None]
        pool.starts.remove(None)
        if program:
            init = ModelChain(program, starts=pool)
            pool.starts.append(init)
            self.chains.append(init)
        else:
            pool.free += 1
            pool.serve_queue()

    def is_hopeless(self, chain: ModelChain, pool: ModelPool) -> bool:
        """Grow the set of chains that can go on until it grows no more; hopeless is who is not among them."""
        others = (other for other in self.chains if other is not chain and not other.is_over)
        going = {other for other in others if other.waiting_for is None}
        wanted = {other: other.waiting_for for other in self.chains if other.waiting_for is not None} | {chain: pool}
        while True:
            more = {
                other
                for other, target in wanted.items()
                if other not in going and (target.is_moving or any(holder in going for holder in target.holders))
            }
            if not more:
                return chain not in going
            going |= more


@st.composite
def worlds(draw: st.DrawFn) -> World:
    pools = [ModelPool(free=draw(st.integers(1, 3))) for _ in range(draw(st.integers(1, 4)))]
    chains = [ModelChain(deque(draw(programs(pools)))) for _ in range(draw(st.integers(1, 7)))]
    return World(pools, chains)


@st.composite
def programs(draw: st.DrawFn, pools: list[ModelPool], depth: int = 4) -> list[ModelPool | None]:
    """Well nested: each pool that is entered is left."""
    program: list[ModelPool | None] = []
    for pool in draw(st.lists(st.sampled_from(pools), min_size=depth == 4, max_size=2)):
        inner = draw(programs(pools, depth - 1)) if depth else []
        program += [pool, *inner, None]
    return program


@settings(deadline=None)
@given(worlds(), st.data())
def test_no_set_of_chains_waits_for_ever_whatever_the_schedule(world: World, data: st.DataObject) -> None:
    for _ in range(2000):
        movers = world.runnable()
        if not movers:
            break
        world.step(data.draw(st.sampled_from(movers), "next"), data)
    waiting = [chain for chain in world.chains if not chain.is_over]
    assert not waiting or world.runnable(), f"{len(waiting)} chains wait for ever"


def test_a_chain_that_comes_back_to_the_only_worker_of_a_plugin_is_stuck() -> None:
    pool = ModelPool(free=1)
    chain = ModelChain(deque())
    pool.lend(chain)
    assert is_stuck(chain, pool)


def test_a_second_worker_in_other_hands_is_reason_enough_to_wait() -> None:
    pool = ModelPool(free=2)
    chain, other = ModelChain(deque()), ModelChain(deque())
    pool.lend(chain)
    pool.lend(other)
    assert not is_stuck(chain, pool)


def test_opposite_chains_are_stuck_only_when_every_worker_is_in_such_hands() -> None:
    a, b = ModelPool(free=2), ModelPool(free=1)
    there, back, third = (ModelChain(deque()) for _ in range(3))
    a.lend(there)
    a.lend(third)
    b.lend(back)
    there.waiting_for = b
    assert not is_stuck(back, a)  # ``third`` runs
    third.waiting_for = b
    assert is_stuck(back, a)


def test_a_worker_that_backs_off_comes_by_itself() -> None:
    pool = ModelPool(free=0, starts=[None])
    assert not is_stuck(ModelChain(deque()), pool)


def test_a_start_that_waits_for_the_chain_that_waits_for_it_is_stuck() -> None:
    starting, other = ModelPool(free=0), ModelPool(free=1)
    chain, init = ModelChain(deque()), ModelChain(deque(), starts=starting)
    starting.starts.append(init)
    other.lend(chain)
    assert not is_stuck(chain, starting)
    chain.waiting_for = starting
    assert is_stuck(init, other)
