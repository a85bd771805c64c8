"""Locks that are waited for with a time limit. What interrupts do to them: tests/chaos/test_interrupted_hosts.py."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from isoplug.supervisor.bell import held


def is_free(lock: threading.RLock, elsewhere: ThreadPoolExecutor) -> bool:
    def ask() -> bool:
        with held(lock, 0.01) as is_mine:
            return is_mine

    return elsewhere.submit(ask).result()


def test_a_lock_is_held_within_and_free_afterwards_whatever_happens() -> None:
    lock = threading.RLock()
    with ThreadPoolExecutor(1) as elsewhere:

        def is_interrupted() -> None:
            with held(lock, 1.0) as is_mine:
                assert is_mine
                assert not is_free(lock, elsewhere)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            is_interrupted()
        assert is_free(lock, elsewhere)


def test_whoever_does_not_get_it_in_time_leaves_it_to_its_holder() -> None:
    lock = threading.RLock()
    with ThreadPoolExecutor(1) as elsewhere:
        with lock:
            assert not is_free(lock, elsewhere)
            assert not is_free(lock, elsewhere)
        assert is_free(lock, elsewhere)
