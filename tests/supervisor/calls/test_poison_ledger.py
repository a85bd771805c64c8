"""Which inputs are set aside, and for how long. No processes."""

from __future__ import annotations

import pytest

from isoplug.shared.errors import PoisonedInput
from isoplug.supervisor.calls.poison import PoisonLedger, fingerprint_of

A, B = "test.a", "test.b"
ONE = fingerprint_of("handle_command", b"one", {})


def strike(ledger: PoisonLedger, fingerprint: str = ONE, plugin_id: str = A, at: float = 1.0) -> bool:
    return ledger.strike(plugin_id, fingerprint, "command 'one'", "killed by SIGSEGV", at)


def test_the_second_death_sets_an_input_aside() -> None:
    ledger = PoisonLedger()
    assert not strike(ledger, at=1.0)
    ledger.require_unpoisoned(A, ONE)
    assert ledger.listed() == []
    assert strike(ledger, at=2.0)
    with pytest.raises(PoisonedInput, match="clear_poisoned") as caught:
        ledger.require_unpoisoned(A, ONE)
    assert caught.value.fingerprint == ONE
    (entry,) = ledger.listed(A)
    assert (entry.what, entry.strikes, entry.last_failure, entry.at) == ("command 'one'", 2, "killed by SIGSEGV", 2.0)


def test_handling_an_input_well_clears_its_strike() -> None:
    ledger = PoisonLedger()
    strike(ledger)
    ledger.acquit(A, ONE)
    assert not ledger.suspects(A)
    assert not strike(ledger)


def test_other_plugins_and_other_inputs_are_not_concerned() -> None:
    ledger = PoisonLedger()
    strike(ledger)
    strike(ledger)
    ledger.require_unpoisoned(B, ONE)
    ledger.require_unpoisoned(A, fingerprint_of("handle_command", b"two", {}))
    assert ledger.listed(B) == []


def test_clearing_takes_up_one_input_or_all_and_counts_those_set_aside() -> None:
    ledger = PoisonLedger()
    two, three = (fingerprint_of("x", data, {}) for data in (b"2", b"3"))
    for fingerprint in (ONE, ONE, two, two, three):
        strike(ledger, fingerprint)
    assert ledger.clear(A, ONE) == 1
    assert ledger.clear(A, ONE) == 0
    ledger.require_unpoisoned(A, ONE)
    assert ledger.clear(A) == 1  # the third has one strike only
    assert not ledger.suspects(A)
    assert not strike(ledger, three)


def test_the_input_that_struck_the_longest_ago_is_forgotten_first() -> None:
    ledger = PoisonLedger()
    strike(ledger, "first")
    strike(ledger, "second")
    strike(ledger, "first")
    for number in range(999):
        strike(ledger, str(number))
    assert strike(ledger, "first")
    assert not strike(ledger, "second")


def test_a_fingerprint_tells_exports_inputs_and_offered_files_apart() -> None:
    inputs = [
        ("a", b"b", {}),
        ("ab", b"", {}),
        ("a", b"", {}),
        ("a", b"b", {"k": b"v"}),
        ("a", b"b", {"k": b"w"}),
        ("a", b"b", {"k": b"", "v": b""}),
        ("a", b"b\0k\x001\0v", {}),
    ]
    prints = [fingerprint_of(*given) for given in inputs]
    assert len(set(prints)) == len(inputs)
    assert prints[3] == fingerprint_of("a", b"b", {"k": b"v"})


def test_the_order_of_offered_files_does_not_matter() -> None:
    assert fingerprint_of("a", b"", {"x": b"1", "y": b"2"}) == fingerprint_of("a", b"", {"y": b"2", "x": b"1"})
