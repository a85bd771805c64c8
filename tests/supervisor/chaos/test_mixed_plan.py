"""The plan that ``isoplug chaos`` makes when it is given names, or nothing."""

from __future__ import annotations

import pytest

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.chaos import Kill, Plan, fault_names, mixed_plan


def test_without_names_every_fault_has_its_part_that_harms_no_other_call() -> None:
    plan = mixed_plan(seed=7)
    assert {rule.fault.name for rule in plan.rules} == set(fault_names()) - {"descriptors-exhausted"}
    assert plan.seed == 7


def test_faults_share_a_probability_and_so_do_the_kinds_of_one() -> None:
    plan = mixed_plan(("kill", "kill"), share=0.3)
    assert {Kill("before"), Kill("delivery"), Kill("reply")} <= {rule.fault for rule in plan.rules}
    assert len({rule.fault for rule in plan.rules}) == len(plan.rules)
    assert [rule.probability for rule in plan.rules] == pytest.approx([0.3 / len(plan.rules)] * len(plan.rules))
    everything = sum(rule.probability or 0 for rule in mixed_plan(share=0.3).rules)
    assert everything == pytest.approx(0.3)


def test_it_can_be_written_down_and_read_again() -> None:
    assert Plan.from_toml(mixed_plan(seed=3).to_toml()) == mixed_plan(seed=3)


def test_a_name_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"no fault 'kil'.*kill"):
        mixed_plan(("kil",))
