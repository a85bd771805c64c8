"""Whatever the process of a program says, it can be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.lockdown import Lockdown
from isoplug.shared.wasi import VERDICT_BYTES, Order, Verdict, VerdictKind, decode_verdict, encode_verdict


@given(st.binary(max_size=2 * VERDICT_BYTES))
def test_any_bytes_are_a_verdict_of_some_kind(data: bytes) -> None:
    verdict = decode_verdict(data)
    assert isinstance(verdict.kind, str)
    assert isinstance(verdict.text, str)


@given(st.text(max_size=3 * VERDICT_BYTES))
def test_a_verdict_arrives_as_it_was_said_up_to_its_bound(text: str) -> None:
    data = encode_verdict(Verdict(VerdictKind.TRAPPED, text))
    assert len(data) <= VERDICT_BYTES
    kind, said = decode_verdict(data)
    assert kind == VerdictKind.TRAPPED
    # What was cut in the middle of a character, or could not be encoded at all, is replaced.
    expected = text.encode("utf-8", "replace").decode()
    assert said == expected or expected.startswith(said.rstrip("\ufffd"))


@given(st.binary(max_size=100), st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10)))
def test_an_order_arrives_as_it_was_given(module: bytes, arguments: list[str]) -> None:
    order = Order(module, arguments, "/folder", 1, 2, 3, 4, Lockdown.FULL)
    assert Order.decode(order.encode()) == order
