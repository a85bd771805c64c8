"""Ctrl-C in a host's thread, wherever it comes: nothing stays lent, and no lock stays held."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from itertools import count

import psutil
import pytest

from conftest import WAIT_SECONDS, PluginFolder, wait_until
from faults import workers
from interrupts import interrupted_at
from isoplug.supervisor import CallTimeout, Supervisor
from isoplug.supervisor.config import Calls, Config, Sleep
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.events import Mailbox
from isoplug.supervisor.pool import Chain, Pool

PROBE = "test.probe"


def borrow(pool: Pool, chain: Chain) -> None:
    pool.acquire(chain, Deadline.after(30.0), 0).release()


@contextmanager
def inside(pool: Pool, chain: Chain) -> Iterator[None]:
    lease = pool.acquire(chain, Deadline.after(30.0), 0)
    try:
        yield
    finally:
        lease.release()


def interrupt_everywhere(
    pool: Pool, around: Callable[[Chain], AbstractContextManager[None]] = lambda _: nullcontext()
) -> int:
    """Borrow again and again, each time interrupted one place later, until it gets through; how often that was. Each
    time it works without an interrupt before."""
    for number in count(1):
        chain = Chain()
        with around(chain):
            borrow(pool, chain)
        chain = Chain()
        try:
            with around(chain), interrupted_at(number):
                borrow(pool, chain)
        except KeyboardInterrupt:
            chain.end()
        else:
            return number
    raise AssertionError


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add(PROBE)
    return supervise(config=Config(calls=Calls(max_extra_instances=1)))


@pytest.fixture
def pool(supervisor: Supervisor) -> Pool:
    return supervisor.plugins[PROBE].pool


def test_an_interrupt_anywhere_in_borrowing_and_giving_back_leaves_the_worker_free(pool: Pool) -> None:
    assert interrupt_everywhere(pool) > 20
    assert pool.state == "ready"


def test_an_interrupt_anywhere_in_borrowing_an_extra_instance_leaves_room_for_the_next(pool: Pool) -> None:
    assert interrupt_everywhere(pool, around=partial(inside, pool)) > 20
    assert pool.state == "ready"


def test_an_interrupt_of_the_start_of_an_extra_instance_leaves_room_for_the_next(
    supervisor: Supervisor, pool: Pool
) -> None:
    config, main = supervisor.plugins[PROBE].config_path, threading.get_ident()
    config.write_text('{"init": "spin"}')

    def interrupt() -> None:
        (extra,) = wait_until(lambda: set(workers()) - regular)
        wait_until(lambda: psutil.Process(extra).cpu_times().user >= 0.2)
        signal.pthread_kill(main, signal.SIGINT)

    chain, regular = Chain(), set(workers())
    with ThreadPoolExecutor(1) as threads, inside(pool, chain):
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            borrow(pool, chain)
        interrupting.result()
        config.unlink()
        borrow(pool, chain)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one comes while a generator is closed
def test_an_interrupt_anywhere_in_waking_a_plugin_leaves_it_to_the_next(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    pool = supervise(config=Config(sleep=Sleep(after=0.02))).plugins[PROBE].pool
    for number in count(1):
        wait_until(lambda: pool.state == "asleep")
        chain = Chain()
        try:
            with interrupted_at(number):
                borrow(pool, chain)
        except KeyboardInterrupt:
            chain.end()
            borrow(pool, Chain())
        else:
            assert number > 20
            return


def test_an_interrupt_of_a_wait_leaves_the_queue_to_those_behind(pool: Pool) -> None:
    held = pool.acquire(Chain(), Deadline.after(30.0), 0)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: pool._turns._queue)
        behind = threads.submit(borrow, pool, Chain())
        wait_until(lambda: len(pool._turns._queue) == 2)
        signal.pthread_kill(main, signal.SIGINT)
        wait_until(lambda: len(pool._turns._queue) == 1)
        held.release()
        behind.result(30.0)

    with ThreadPoolExecutor(2) as threads:
        interrupting = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            borrow(pool, Chain())
        interrupting.result()
    assert pool.state == "ready"


def test_an_interrupt_anywhere_on_the_way_into_and_out_of_the_queue_leaves_nobody_in_it(pool: Pool) -> None:
    held = pool.acquire(Chain(), Deadline.after(30.0), 0)
    for number in range(1, 40):  # more places than there are: the last ones run into their deadline uninterrupted
        chain = Chain()
        with suppress(KeyboardInterrupt, CallTimeout), interrupted_at(number):
            pool.acquire(chain, Deadline.after(0.02), 0)
        chain.end()
        assert not pool._turns._queue
        assert chain.waiting_for is None
    held.release()
    borrow(pool, Chain())


def test_an_interrupt_anywhere_in_a_flush_is_nothing_but_an_interrupt() -> None:
    may_go_on = threading.Event()
    mailbox = Mailbox("a.plugin", lambda _: may_go_on.wait(), bound=10)
    assert mailbox.post("first")
    for number in range(1, 30):
        with suppress(KeyboardInterrupt), interrupted_at(number):
            assert not mailbox.flush(Deadline.after(0.02))
    may_go_on.set()
    assert mailbox.flush(Deadline.after(WAIT_SECONDS))


def interrupt_and_go_on(step: Callable[[], None], go_on: Callable[[], None]) -> int:
    """As ``interrupt_everywhere``, with another thread that goes on after each interrupt."""
    with ThreadPoolExecutor(1) as elsewhere:
        for number in count(1):
            try:
                with interrupted_at(number):
                    step()
            except KeyboardInterrupt:
                elsewhere.submit(go_on).result(30.0)
            else:
                return number
    raise AssertionError


def test_an_interrupt_anywhere_in_posting_holds_up_nothing_that_is_posted_later() -> None:
    delivered, is_delivering = list[str](), threading.Lock()

    def deliver(item: str) -> None:
        assert is_delivering.acquire(blocking=False), "two threads deliver at once"
        time.sleep(0.001)
        delivered.append(item)
        is_delivering.release()

    mailboxes = [Mailbox("a.plugin", deliver, bound=10)]

    def post() -> None:
        mailboxes.append(Mailbox("a.plugin", deliver, bound=10))
        mailboxes[-1].post("first")
        mailboxes[-1].resume()

    def post_later() -> None:
        delivered.clear()
        assert mailboxes[-1].post("later")
        assert mailboxes[-1].flush(Deadline.after(30.0))
        assert delivered[-1:] == ["later"]

    assert interrupt_and_go_on(post, post_later) > 10


def test_an_interrupt_anywhere_in_a_look_at_the_versions_holds_up_nobody(supervisor: Supervisor) -> None:
    versions = supervisor.plugins[PROBE].versions

    def look() -> None:
        assert versions.all
        assert versions.note is None
        assert versions.standing_by is None

    assert interrupt_and_go_on(look, look) > 3


def test_an_interrupt_anywhere_in_draining_holds_up_nobody(supervisor: Supervisor) -> None:
    def drain() -> None:
        supervisor._runner.gate.drain(Deadline.within(0.0))
        supervisor._runner.gate.stop()

    assert interrupt_and_go_on(drain, drain) > 5


def test_an_interrupt_anywhere_in_a_call_is_nothing_but_an_interrupt(supervisor: Supervisor) -> None:
    for number in count(1):
        try:
            with interrupted_at(number):
                assert supervisor.call(PROBE, "echo", b"interrupted") == b"interrupted"
        except KeyboardInterrupt:
            # Each of them may cost a worker, and the plugin nothing.
            assert supervisor.call(PROBE, "echo", b"next", timeout=WAIT_SECONDS) == b"next"
        else:
            break
    assert number > 80
    assert supervisor.plugins[PROBE].pool.state == "ready"
