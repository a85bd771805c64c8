"""Which plugin lives in which folder: rules without I/O."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.plugins.homes import Changes, Found, Resident, changes

NOTHING = Changes((), {}, {}, {}, (), {}, {})


def test_what_is_as_it_was_stays() -> None:
    assert changes([Found("a", "A", "1")], [Resident("A", "a", "1")]) == NOTHING._replace(stay={"A": "a"})


def test_a_new_folder_is_loaded_and_a_gone_one_unloaded() -> None:
    assert changes([Found("b", "B", "1")], [Resident("A", "a", "1")]) == NOTHING._replace(load=("b",), unload=("A",))


def test_another_module_with_the_same_id_is_an_upgrade() -> None:
    assert changes([Found("a", "A", "2")], [Resident("A", "a", "1")]) == NOTHING._replace(upgrade={"A": "a"})


def test_a_folder_whose_module_cannot_be_told_keeps_its_plugin() -> None:
    assert changes([Found("a", None, None)], [Resident("A", "a", "1")]) == NOTHING


def test_a_renamed_folder_moves_its_plugin() -> None:
    assert changes([Found("b", "A", "1")], [Resident("A", "a", "1")]) == NOTHING._replace(move={"A": "b"})


def test_a_renamed_folder_with_another_module_is_an_upgrade() -> None:
    assert changes([Found("b", "A", "2")], [Resident("A", "a", "1")]) == NOTHING._replace(upgrade={"A": "b"})


def test_two_folders_may_change_places() -> None:
    residents = [Resident("A", "a", "1"), Resident("B", "b", "2")]
    plan = changes([Found("a", "B", "2"), Found("b", "A", "1")], residents)
    assert plan == NOTHING._replace(move={"A": "b", "B": "a"})


def test_a_second_folder_with_an_id_is_refused_wherever_it_stands_in_the_alphabet() -> None:
    residents = [Resident("A", "m", "1")]
    for second in ("a", "z"):
        plan = changes([Found("m", "A", "1"), Found(second, "A", "2")], residents)
        assert plan == NOTHING._replace(stay={"A": "m"}, taken={second: "m"})


def test_of_two_new_folders_with_one_id_the_first_by_name_is_loaded() -> None:
    plan = changes([Found("z", "A", "1"), Found("b", "A", "2")], [])
    assert plan == NOTHING._replace(load=("b",), taken={"z": "b"})


def test_a_folder_that_tells_another_id_is_refused_and_its_plugin_stays() -> None:
    plan = changes([Found("a", "X", "2")], [Resident("A", "a", "1")])
    assert plan == NOTHING._replace(renamed={"a": "A"})


def test_who_loses_its_new_folder_to_the_plugin_that_lives_there_gives_back_what_it_left() -> None:
    residents = [Resident("A", "a", "1"), Resident("B", "b", "2")]
    plan = changes([Found("a", "B", "2"), Found("b", "C", "3")], residents)  # A has nowhere else to go
    assert plan == NOTHING._replace(renamed={"a": "A", "b": "B"})


names, ids, modules = st.sampled_from("abcd"), st.sampled_from("ABCD"), st.sampled_from("12")
founds = st.lists(st.builds(Found, names, st.none() | ids, modules), unique_by=lambda folder: folder.name)
resident_lists = st.lists(
    st.builds(Resident, ids, names, modules), unique_by=(lambda resident: resident.plugin_id, lambda r: r.name)
)


@given(founds, resident_lists)
def test_every_folder_and_every_plugin_is_answered_once(found: list[Found], residents: list[Resident]) -> None:
    plan = changes(found, residents)
    names = [*plan.load, *plan.upgrade.values(), *plan.move.values(), *plan.stay.values(), *plan.taken, *plan.renamed]
    assert sorted(names) == sorted(folder.name for folder in found if folder.plugin_id is not None)
    here = {folder.name for folder in found}
    moved = {*plan.upgrade, *plan.move, *plan.stay}
    for resident in residents:
        is_gone = resident.plugin_id not in moved and resident.name not in here
        assert (resident.plugin_id in plan.unload) == is_gone
    for name, plugin_id in plan.renamed.items():
        assert plugin_id not in moved
        assert name in here


@given(founds, resident_lists)
def test_what_was_done_once_leaves_nothing_to_do(found: list[Found], residents: list[Resident]) -> None:
    plan = changes(found, residents)
    by_name = {folder.name: folder for folder in found}
    homes = {**plan.upgrade, **plan.move, **plan.stay}
    homes |= {by_name[name].plugin_id or "": name for name in plan.load}
    after = [Resident(plugin_id, name, by_name[name].sha256 or "") for plugin_id, name in homes.items()]
    kept = [r for r in residents if r.plugin_id not in homes and r.plugin_id not in plan.unload]
    again = changes(found, [*after, *kept])
    assert (again.load, again.upgrade, again.move, again.unload) == ((), {}, {}, ())
