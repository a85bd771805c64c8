"""A user id of its own."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest

from confined import confined, outcome
from isoplug.worker.lockdown import capabilities, user
from isoplug.worker.lockdown.layer import LayerMissing

UID = 1_987_654_321
EVERYTHING = range(4_294_967_295)


def ids() -> tuple[Any, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups()


@pytest.mark.usefixtures("needs_root")
def test_every_id_is_the_new_one_and_no_group_is_left() -> None:
    assert confined(partial(os.setgroups, [4, 5]), partial(user.become, UID), ids).value == ((UID,) * 3, (UID,) * 3, [])


@pytest.mark.usefixtures("needs_root")
def test_there_is_no_way_back() -> None:
    ending = confined(partial(user.become, UID), partial(os.setuid, 0))
    assert isinstance(ending.value, PermissionError)


@pytest.mark.usefixtures("needs_root")
def test_without_the_capability_the_layer_is_missing_and_says_which() -> None:
    ending = confined(capabilities.drop, partial(user.become, UID))
    assert isinstance(ending.value, LayerMissing)
    assert "CAP_SETUID" in str(ending.value)


@pytest.mark.usefixtures("needs_root")
def test_an_id_that_was_chosen_can_be_had() -> None:
    uid = user.choose()
    assert confined(partial(user.become, uid), os.getuid).value == uid


def test_two_choices_differ() -> None:
    chosen = outcome(lambda: {user.choose() for _ in range(20)})
    assert len(chosen) == 20


def test_where_every_id_is_mapped_it_is_one_that_no_convention_gives_to_anybody() -> None:
    assert user.free_ids([EVERYTHING], [EVERYTHING]) == range(1_900_000_000, 2_100_000_000)


def test_in_a_small_user_namespace_it_is_a_high_one_and_never_nobody() -> None:
    mapped = [range(1), range(1, 65_537)]
    free = user.free_ids(mapped, mapped)
    assert free.start > 30_000
    assert len(free) > 1_000
    assert 65_534 not in free
    assert 65_535 not in free


def test_it_is_mapped_for_users_and_for_groups() -> None:
    free = user.free_ids([range(200_000)], [range(100_000, 150_000)])
    assert free.start >= 100_000
    assert free.stop <= 150_000


@pytest.mark.parametrize("mapped", [[], [range(1)], [range(10_900)], [range(64_900, 65_800)]])
def test_a_user_namespace_with_few_ids_is_a_missing_layer(mapped: list[range]) -> None:
    with pytest.raises(LayerMissing, match="subuid"):
        user.free_ids(mapped, mapped)
