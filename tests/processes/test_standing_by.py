"""A pool that stands by lends and starts nothing, and is as it was when it takes over again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from conftest import PluginFolder, wait_until
from invariants import wait_until_tidy
from isoplug.supervisor import Supervisor
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain, Lease, Pool, PoolClosed

PROBE = "test.probe"


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add(PROBE)
    return supervise()


@pytest.fixture
def pool(supervisor: Supervisor) -> Pool:
    return supervisor.plugins[PROBE].pool


def borrow(pool: Pool) -> Lease:
    return pool.acquire(Chain(), Deadline.after(20.0), 0)


def test_whoever_waits_or_comes_is_sent_elsewhere_and_what_is_lent_comes_back_and_stays(
    supervisor: Supervisor, pool: Pool
) -> None:
    assert supervisor.command(PROBE, "count") == 1
    lease = borrow(pool)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(borrow, pool)
        wait_until(lambda: pool._turns._queue)
        pool.stand_by()
        assert isinstance(waiting.exception(20.0), PoolClosed)
    lease.release()
    with pytest.raises(PoolClosed):
        borrow(pool)
    pool.take_over()
    assert supervisor.command(PROBE, "count") == 2


def test_a_worker_that_dies_meanwhile_is_started_again_only_when_it_is_needed(
    supervisor: Supervisor, pool: Pool
) -> None:
    pool.stand_by()
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: not pool.worker_pids)
    assert not pool._crew.starts
    pool.take_over()
    assert supervisor.command(PROBE, "count") == 1


def test_the_template_of_a_worker_that_dies_meanwhile_waits_for_the_next_one(
    supervisor: Supervisor, pool: Pool
) -> None:
    (pid,) = pool.worker_pids
    template = psutil.Process(pid).ppid()
    pool.stand_by()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pool.worker_pids)
    assert psutil.Process(template).is_running()
    wait_until_tidy(supervisor)  # it is nobody's leftover
    pool.take_over()
    assert supervisor.command(PROBE, "count") == 1
    (successor,) = pool.worker_pids
    assert psutil.Process(successor).ppid() == template
