"""No capability left and none to be had, read back from /proc."""

from __future__ import annotations

import os
from functools import partial

import pytest

from confined import confined, status
from isoplug.worker.lockdown import capabilities, user

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def sets() -> dict[str, int]:
    return {name: int(status(name), 16) for name in SETS}


@pytest.mark.usefixtures("needs_root")
def test_with_a_user_of_its_own_every_set_is_empty() -> None:
    ending = confined(capabilities.bound, partial(user.become, 1_987_654_321), capabilities.drop, sets)
    assert ending.value == dict.fromkeys(SETS, 0)


@pytest.mark.usefixtures("needs_root")
def test_root_without_a_user_of_its_own_is_left_with_nothing_as_well() -> None:
    assert confined(capabilities.bound, capabilities.drop, sets).value == dict.fromkeys(SETS, 0)


def test_what_needs_one_fails_afterwards() -> None:
    ending = confined(capabilities.bound, capabilities.drop, partial(os.chroot, "/"))
    assert isinstance(ending.value, PermissionError)


def test_who_has_none_gives_them_up_without_an_error() -> None:
    ending = confined(capabilities.drop, capabilities.bound, capabilities.drop, sets)
    assert {name: bits for name, bits in ending.value.items() if name != "CapBnd"} == dict.fromkeys(
        [name for name in SETS if name != "CapBnd"], 0
    )
