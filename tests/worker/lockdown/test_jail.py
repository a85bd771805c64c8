"""A root folder of its own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from confined import confined, outcome
from isoplug.worker.lockdown import capabilities, jail
from isoplug.worker.lockdown.layer import LayerMissing

pytestmark = pytest.mark.usefixtures("needs_root")


def test_the_root_folder_is_the_given_one(tmp_path: Path) -> None:
    (tmp_path / "all there is").touch()
    assert confined(partial(jail.enter, str(tmp_path)), partial(os.listdir, "/")).value == ["all there is"]


@pytest.mark.parametrize("path", [".", "..", "/..", "../../.."])
def test_no_name_leads_out_of_it(tmp_path: Path, path: str) -> None:
    (tmp_path / "all there is").touch()
    assert confined(partial(jail.enter, str(tmp_path)), partial(os.listdir, path)).value == ["all there is"]


def test_proc_is_not_in_it(tmp_path: Path) -> None:
    ending = confined(partial(jail.enter, str(tmp_path)), partial(os.listdir, "/proc"))
    assert isinstance(ending.value, FileNotFoundError)


def test_without_the_capability_the_layer_is_missing_and_says_which(tmp_path: Path) -> None:
    ending = confined(capabilities.drop, partial(outcome, partial(jail.enter, str(tmp_path))))
    assert isinstance(ending.value, LayerMissing)
    assert "CAP_SYS_CHROOT" in str(ending.value)


def test_a_folder_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    assert isinstance(confined(partial(jail.enter, str(tmp_path / "nowhere"))).value, FileNotFoundError)
