"""What waits to be sent: in order, and bounded by number and by bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ResourceLimitExceeded
from isoplug.supervisor.websockets.outbox import Outbox

MESSAGES = st.binary(max_size=12) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def size(message: bytes | str) -> int:
    return len(message if isinstance(message, bytes) else message.encode())


@given(st.lists(st.none() | MESSAGES), st.integers(1, 5), st.integers(1, 20))
def test_it_never_holds_more_than_it_may_and_gives_back_what_it_took_in_order(
    steps: list[bytes | str | None], max_messages: int, max_bytes: int
) -> None:
    outbox, inside = Outbox(max_messages, max_bytes), list[bytes | str]()
    for message in steps:
        if message is None:
            assert outbox.take() == (inside.pop(0) if inside else None)
            continue
        has_room = len(inside) < max_messages and sum(map(size, inside)) + size(message) <= max_bytes
        if has_room:
            outbox.put(message)
            inside.append(message)
        else:
            with pytest.raises(ResourceLimitExceeded):
                outbox.put(message)
    assert [outbox.take() for _ in inside] == inside
    assert outbox.take() is None


def test_a_message_beyond_the_bound_says_so() -> None:
    with pytest.raises(ResourceLimitExceeded, match="the size of a message in bytes is 5, the limit is 4"):
        Outbox(10, 4).put("Grüs")


def test_a_full_one_says_what_waits() -> None:
    outbox = Outbox(1, 100)
    outbox.put(b"abc")
    with pytest.raises(ResourceLimitExceeded, match="1 messages with 3 bytes wait to be sent"):
        outbox.put(b"d")
