"""Counting what is in a JSON text, against a parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.json_bounds import has_more_containers, has_more_tokens

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\[]{},é', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\{,', max_size=4), inner, max_size=4),
    max_leaves=20,
)


def containers(value: Any) -> int:
    match value:
        case dict():
            return 1 + sum(map(containers, value.values()))
        case list():
            return 1 + sum(map(containers, value))
    return 0


def tokens(value: Any) -> int:
    match value:
        case str():
            return 1
        case dict():
            return 1 + max(0, len(value) - 1) + sum(1 + tokens(member) for member in value.values())
        case list():
            return 1 + max(0, len(value) - 1) + sum(map(tokens, value))
    return 0


@given(VALUES, st.booleans())
def test_what_is_counted_is_what_a_parser_finds(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    for count, has_more in ((containers(value), has_more_containers), (tokens(value), has_more_tokens)):
        assert not has_more(text, count)
        assert count == 0 or has_more(text, count - 1)


@pytest.mark.parametrize("text", [b'"' * 5_000_001, b'"\\' * 2_500_000, b"[" * 5_000_000, b'"[' * 2_500_000])
def test_what_is_no_json_takes_no_longer(text: bytes) -> None:
    for has_more in (has_more_containers, has_more_tokens):
        has_more(text, 10_000_000)
        has_more(text, 1_000)


@given(st.binary(max_size=200), st.integers(0, 20))
def test_any_bytes_are_counted(text: bytes, bound: int) -> None:
    most = sum(map(text.count, (b'"', b"[", b"{", b",")))
    if most <= bound:
        assert not has_more_containers(text, bound)
        assert not has_more_tokens(text, bound)
