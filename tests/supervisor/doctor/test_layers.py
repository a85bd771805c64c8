"""What is concluded from what the machine offers, what a worker says and what the kernel says."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from isoplug.shared.lockdown import Layer, Protection
from isoplug.supervisor.doctor import Evidence, LayerFinding
from isoplug.supervisor.doctor.layers import find_layers
from isoplug.supervisor.doctor.process import Sight, Thread, look_at, parse_limits, parse_thread

NO_CAPABILITIES = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0}
LOCKED = Thread(frozenset({1_900_000_001}), frozenset({1_900_000_001}), frozenset(), NO_CAPABILITIES, True, 2, 3)
WORKER = Sight(7, (LOCKED, LOCKED), {}, 0, "/run/isoplug-12345678/t0", (), ())
FREE = Thread(frozenset({0}), frozenset({0}), frozenset({0}), {**NO_CAPABILITIES, "CapEff": 1}, False, 0, 0)
SUPERVISOR = Sight(1, (FREE,), {}, 0, "/", (), ())
ALL = Protection(tuple(Layer))
OFFERS = dict.fromkeys(Layer, "")


def found(worker: Sight | None, protection: Protection | None = ALL, **offers: str) -> dict[Layer, LayerFinding]:
    layers = find_layers(OFFERS | {Layer(name): why for name, why in offers.items()}, protection, worker, SUPERVISOR)
    return {layer.name: layer for layer in layers}


def changed(**changes: object) -> Sight:
    """A worker whose second thread is another."""
    return replace(WORKER, threads=(LOCKED, replace(LOCKED, **changes)))


def test_a_locked_worker_has_every_layer_and_the_kernel_shows_all_but_landlock() -> None:
    layers = found(WORKER)
    assert all(layer.applied and layer.offered and not layer.problem for layer in layers.values())
    assert [name for name, layer in layers.items() if layer.evidence is Evidence.WORKER] == [Layer.LANDLOCK]


@pytest.mark.parametrize(
    ("layer", "worker"),
    [
        (Layer.JAIL, replace(WORKER, root="/")),
        (Layer.USER, changed(uids=frozenset({1_900_000_001, 0}))),
        (Layer.USER, changed(groups=frozenset({27}))),
        (Layer.USER, replace(WORKER, threads=(replace(LOCKED, uids=frozenset({0}), gids=frozenset({0})),))),
        (Layer.CAPABILITIES, changed(capabilities={**NO_CAPABILITIES, "CapAmb": 1 << 21})),
        (Layer.NO_NEW_PRIVILEGES, changed(has_no_new_privileges=False)),
        (Layer.UNDUMPABLE, replace(WORKER, owner=1_900_000_001)),
        (Layer.SECCOMP, changed(seccomp_mode=0)),
        (Layer.SECCOMP, changed(seccomp_filters=2)),
    ],
)
def test_a_worker_that_says_more_than_proc_shows_is_a_problem(layer: Layer, worker: Sight) -> None:
    finding = found(worker)[layer]
    assert finding.applied is False
    assert finding.evidence is Evidence.KERNEL
    assert "/proc says otherwise" in (finding.problem or "")
    assert finding.advice


def test_filters_that_were_inherited_do_not_count() -> None:
    contained = replace(SUPERVISOR, threads=(replace(FREE, seccomp_mode=2, seccomp_filters=1),))
    (finding,) = (one for one in find_layers(OFFERS, ALL, WORKER, contained) if one.name is Layer.SECCOMP)
    assert finding.applied is False


def test_an_older_kernel_that_counts_no_filters_shows_that_there_are_some() -> None:
    finding = found(replace(WORKER, threads=(replace(LOCKED, seccomp_filters=None),)))[Layer.SECCOMP]
    assert finding.applied
    assert finding.evidence is Evidence.KERNEL


def test_what_only_root_may_read_is_the_worker_s_word() -> None:
    finding = found(replace(WORKER, root=None, descriptors=None))[Layer.JAIL]
    assert finding.applied
    assert finding.evidence is Evidence.WORKER


def test_a_missing_layer_has_its_reason_and_what_to_do() -> None:
    missing = Protection(
        tuple(layer for layer in Layer if layer is not Layer.LANDLOCK), {Layer.LANDLOCK: "no Landlock; boot it"}
    )
    finding = found(WORKER, missing, landlock="no Landlock; boot it")[Layer.LANDLOCK]
    assert (finding.offered, finding.applied, finding.problem) == (False, False, "no Landlock")
    assert "lsm=" in (finding.advice or "")


def test_without_a_worker_the_gaps_are_what_the_machine_does_not_offer() -> None:
    layers = found(None, None, seccomp="no seccomp; another kernel")
    assert [name for name, layer in layers.items() if layer.problem] == [Layer.SECCOMP]
    assert all(layer.applied is None for layer in layers.values())


def test_every_layer_has_advice() -> None:
    missing = Protection((), dict.fromkeys(Layer, "gone"))
    assert all(layer.advice for layer in found(WORKER, missing).values())


def test_a_layer_for_root_alone_is_no_gap_for_others() -> None:
    offers = {layer: "" for layer in Layer if layer not in (Layer.JAIL, Layer.USER)}
    jail, user, *_ = find_layers(offers, Protection(tuple(offers)), WORKER, SUPERVISOR)
    for finding in (jail, user):
        assert (finding.offered, finding.applied, finding.problem) == (None, None, None)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_this_process_looks_as_the_kernel_says() -> None:
    sight = look_at(os.getpid())
    assert sight.threads[0].uids == {os.getuid(), os.geteuid()}
    assert sight.threads[0].groups == set(os.getgroups())
    assert sight.root == "/"
    assert sight.descriptors
    assert sight.limits.keys() == {"data_bytes", "open_files", "processes", "cpu_seconds", "core_bytes"}


def test_a_limit_without_a_bound_is_none() -> None:
    text = "Max cpu time    unlimited    unlimited    seconds\nMax open files    64    64    files\n"
    assert parse_limits(text) == {"cpu_seconds": None, "open_files": 64}


def test_a_kernel_that_does_not_count_filters_is_understood() -> None:
    status = "Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    assert parse_thread(status).seccomp_filters is None
