"""What a worker may use: rules, with clocks of the test's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.config import Limits
from isoplug.supervisor.pool.budget import Allowance, Budget, Exceeded, Idleness

KIB = 1 << 10


@dataclass
class Clocks:
    """``now`` is the time, ``cpu`` the worker's CPU time, both in seconds."""

    now: float = 1000.0
    cpu: float = 5.0
    reads: list[float] = field(default_factory=list)

    def tell(self) -> float:
        return self.now

    def tell_cpu(self) -> float:
        self.reads.append(self.cpu)
        return self.cpu


def budget(clocks: Clocks, **limits: float) -> Budget:
    unbounded = {"host_calls_per_call": 0, "log_lines_per_second": 0}
    return Budget(Allowance.of(Limits(**(unbounded | limits))), clocks.tell_cpu, clocks.tell)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


# --- CPU time ---------------------------------------------------------------------------------------------------------


def test_a_call_may_use_its_cpu_time_and_not_more(clocks: Clocks) -> None:
    bounded = budget(clocks, cpu_per_call=2.0)
    bounded.begin()
    clocks.cpu += 2.0
    assert bounded.patience() > 0
    clocks.cpu += 0.0105
    with pytest.raises(Exceeded) as caught:
        bounded.patience()
    assert (caught.value.key, caught.value.figure, caught.value.bound) == ("limits.cpu_per_call", 2011, 2000)


def test_each_call_has_the_cpu_time_for_itself(clocks: Clocks) -> None:
    bounded = budget(clocks, cpu_per_call=2.0)
    for _ in range(3):
        bounded.begin()
        clocks.cpu += 1.9
        bounded.patience()


@given(st.floats(0.001, 100.0), st.floats(0.0, 1.0))
def test_nobody_waits_longer_than_the_cpu_time_that_is_left(allowed: float, share: float) -> None:
    clocks = Clocks(cpu=0.0)
    bounded = budget(clocks, cpu_per_call=allowed)
    bounded.begin()
    clocks.cpu = allowed * share
    assert 0.01 <= bounded.patience() <= max(0.01, allowed - clocks.cpu)


def test_without_a_limit_on_it_the_cpu_clock_is_not_read(clocks: Clocks) -> None:
    assert budget(clocks).begin() is None
    assert not clocks.reads


# --- host calls, log lines, answers -----------------------------------------------------------------------------------


def test_a_call_may_make_so_many_host_calls(clocks: Clocks) -> None:
    bounded = budget(clocks, host_calls_per_call=3)
    for _ in range(2):
        bounded.begin()
        for function in ("host_log", "host_get_now", "host_log"):
            bounded.host_call(function)
    with pytest.raises(Exceeded) as caught:
        bounded.host_call("host_get_now")
    assert (caught.value.key, caught.value.figure, caught.value.bound) == ("limits.host_calls_per_call", 4, 3)


@pytest.mark.parametrize(
    ("key", "other"), [("host_calls_per_second", "host_read_file"), ("log_lines_per_second", "host_log")]
)
def test_a_rate_counts_over_the_calls_of_a_worker(clocks: Clocks, key: str, other: str) -> None:
    bounded = budget(clocks, **{key: 3})
    for _ in range(3):
        bounded.begin()
        bounded.host_call(other)
        clocks.now += 0.3
    with pytest.raises(Exceeded) as caught:
        bounded.host_call(other)
    assert (caught.value.key, caught.value.figure, caught.value.bound) == (f"limits.{key}", 4, 3)


def test_only_log_lines_count_as_log_lines(clocks: Clocks) -> None:
    bounded = budget(clocks, log_lines_per_second=1)
    for _ in range(100):
        bounded.host_call("host_read_file")


@given(st.lists(st.floats(0.0, 3.0), max_size=50), st.integers(1, 5))
def test_what_keeps_below_a_rate_is_never_stopped_and_twice_the_rate_always(gaps: list[float], bound: int) -> None:
    clocks = Clocks()
    bounded = budget(clocks, host_calls_per_second=bound)
    instants: list[float] = []
    stopped = False
    for gap in gaps:
        clocks.now += gap
        instants.append(clocks.now)
        try:
            bounded.host_call("host_read_file")
        except Exceeded:
            stopped = True
            break
    most = max((sum(at - 1.0 < other <= at for other in instants) for at in instants), default=0)
    if most <= bound:
        assert not stopped
    if most > 2 * bound:
        assert stopped


def test_an_answer_may_be_as_large_as_its_limit_and_the_frame_allow(clocks: Clocks) -> None:
    for limits in ({"output": 64 * KIB}, {"output": 1 << 30, "frame": 64 * KIB}):
        bounded = budget(clocks, **limits)
        bounded.output(64 * KIB)
        with pytest.raises(Exceeded) as caught:
            bounded.output(64 * KIB + 1)
        assert (caught.value.key, caught.value.figure, caught.value.bound) == (
            "limits.output",
            64 * KIB + 1,
            64 * KIB,
        )


# --- idle workers -----------------------------------------------------------------------------------------------------


def test_a_worker_that_has_not_answered_yet_is_not_idle(clocks: Clocks) -> None:
    clocks.cpu = 1e6
    assert not Idleness(clocks.tell_cpu, clocks.tell).wasted_seconds


@pytest.mark.parametrize(("used", "idle_seconds"), [(0.0, 0.0), (0.09, 0.0), (0.5, 600.0), (30.0, 36_000.0)])
def test_an_idle_worker_may_take_a_moment_to_settle_and_hardly_anything_afterwards(
    clocks: Clocks, used: float, idle_seconds: float
) -> None:
    idleness = Idleness(clocks.tell_cpu, clocks.tell)
    idleness.begin()
    clocks.cpu += used
    clocks.now += idle_seconds
    assert not idleness.wasted_seconds
    clocks.cpu += 0.2 + 0.001 * idle_seconds
    assert math.isclose(idleness.wasted_seconds, used + 0.2 + 0.001 * idle_seconds)
    idleness.begin()
    assert not idleness.wasted_seconds
