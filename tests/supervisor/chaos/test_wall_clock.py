"""The clock on the wall, and its jumps."""

from __future__ import annotations

import threading
import time

from isoplug.supervisor import wall_clock


def test_it_is_the_machines() -> None:
    assert abs(wall_clock.now() - time.time()) < 60


def test_a_jump_is_seen_within_and_adds_up() -> None:
    with wall_clock.jumped(10_000):
        assert wall_clock.now() - time.time() > 9_000
        with wall_clock.jumped(10_000):
            assert wall_clock.now() - time.time() > 19_000
    assert abs(wall_clock.now() - time.time()) < 60


def test_no_other_thread_sees_it() -> None:
    seen: list[float] = []
    with wall_clock.jumped(10_000):
        thread = threading.Thread(target=lambda: seen.append(wall_clock.now() - time.time()))
        thread.start()
        thread.join()
    assert abs(seen[0]) < 60
