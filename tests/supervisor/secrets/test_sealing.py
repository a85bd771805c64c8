"""What a sealed text says to those who have the key, and to those who have not."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.secrets.sealing import Seal

SEAL = Seal(bytes(range(32)))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(texts, st.text(max_size=20), texts)
def test_a_text_comes_back_for_its_owner(plugin_id: str, key: str, text: str) -> None:
    assert SEAL.open(plugin_id, key, SEAL.close(plugin_id, key, text)) == text


@given(texts, texts, texts, texts)
def test_it_opens_for_no_other_plugin_and_no_other_key(plugin_id: str, key: str, other_id: str, other: str) -> None:
    opens = SEAL.open(other_id, other, SEAL.close(plugin_id, key, "text")) is not None
    assert opens == ((plugin_id, key) == (other_id, other))


def test_names_that_concatenate_alike_are_kept_apart() -> None:
    sealed = SEAL.close("ab", "c", "text")
    for plugin_id, key in (("a", "bc"), ("abc", ""), ("", "abc"), ("ab", "c\0")):
        assert SEAL.open(plugin_id, key, sealed) is None


def test_another_key_opens_nothing() -> None:
    assert Seal(os.urandom(32)).open("p", "k", SEAL.close("p", "k", "text")) is None


def test_a_byte_that_changed_anywhere_is_noticed_and_so_is_one_that_is_missing() -> None:
    sealed = SEAL.close("p", "k", "text")
    for place in range(len(sealed)):
        assert SEAL.open("p", "k", sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]) is None
        assert SEAL.open("p", "k", sealed[:place]) is None
    assert SEAL.open("p", "k", sealed + b"\0") is None


def test_the_same_text_looks_different_each_time_and_nothing_of_it_is_to_be_seen() -> None:
    sealed = [SEAL.close("p", "k", "correct horse") for _ in range(100)]
    assert len({one[:12] for one in sealed}) == len({one[12:] for one in sealed}) == 100
    assert not any(b"horse" in one for one in sealed)
    assert {len(one) for one in sealed} == {len("correct horse") + 28}


def test_neither_repr_nor_attributes_tell_the_key() -> None:
    key = bytes(range(32))
    assert key.hex() not in repr(SEAL) + repr(vars(SEAL)) + repr(vars(SEAL)["_cipher"])
