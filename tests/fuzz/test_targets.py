"""Every target, by Hypothesis: known inputs that were bent a little, and bytes of no form at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import PIECES, TARGETS


def bent(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with a few stretches replaced, doubled or cut out."""
    pieces = st.sampled_from([b"", *PIECES]) | st.binary(max_size=6)
    cuts = st.tuples(st.integers(0, 600), st.integers(0, 40), pieces, st.booleans())
    return st.builds(_bend, st.sampled_from(list(seeds)), st.lists(cuts, max_size=5))


def _bend(data: bytes, cuts: list[tuple[int, int, bytes, bool]]) -> bytes:
    for at, length, piece, is_doubled in cuts:
        at %= len(data) + 1
        old = data[at : at + length]
        data = data[:at] + piece + (old * 2 if is_doubled else b"") + data[at + length :]
    return data


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_strangers_send_ends_in_a_value_or_the_reader_s_own_error(name: str) -> None:
    feed, seeds = TARGETS[name]

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bent(seeds) | st.binary(max_size=200))
    def try_out(data: bytes) -> None:
        feed(data)

    for seed in (*seeds, b""):
        feed(seed)
    try_out()
