"""Modules that were bent, by section and by byte, through a real worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import nothing_left_behind
from fuzz.modules import Loader, bundled

Section = tuple[int, bytes]


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    made = Loader(tmp_path_factory.mktemp("modules"), bundled()[0])
    yield made
    made.close()


def sections(wasm: bytes) -> list[Section]:
    """Id and content, in order."""
    found, at = [], 8
    while at < len(wasm):
        size, start = _number(wasm, at + 1)
        found.append((wasm[at], wasm[start : start + size]))
        at = start + size
    return found


def assembled(parts: list[Section]) -> bytes:
    """With lengths that are right, so that what is wrong lies deeper."""
    return b"\0asm\x01\0\0\0" + b"".join(bytes([kind]) + _leb128(len(content)) + content for kind, content in parts)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
            return value, at


def _leb128(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded, value = encoded + bytes([value & 0x7F | 0x80]), value >> 7
    return encoded + bytes([value])


ORIGINALS = [sections(path.read_bytes()) for path in bundled()]
CHANGES: list[Callable[[list[Section], int, bytes], list[Section]]] = [
    lambda parts, at, _: parts[:at] + parts[at + 1 :],
    lambda parts, at, _: parts[: at + 1] + parts[at:],
    lambda parts, at, _: parts[at:] + parts[:at],
    lambda parts, at, _: [*parts[:at], (parts[at][0], parts[at][1][: len(parts[at][1]) // 2]), *parts[at + 1 :]],
    lambda parts, at, new: [*parts[:at], (parts[at][0], new), *parts[at + 1 :]],
    lambda parts, at, new: [*parts[:at], (len(new) % 14, parts[at][1]), *parts[at + 1 :]],
    lambda parts, at, new: [*parts[:at], (parts[at][0], _overwritten(parts[at][1], new)), *parts[at + 1 :]],
]


def _overwritten(content: bytes, new: bytes) -> bytes:
    """Somewhere, which the bytes themselves decide."""
    at = int.from_bytes(new) % (len(content) + 1)
    return content[:at] + new + content[at + len(new) :]


def bent(parts: list[Section], changes: list[tuple[int, int, bytes]]) -> bytes:
    for which, at, new in changes:
        if parts:
            parts = CHANGES[which](parts, at % len(parts), new)
    return assembled(parts)


def test_a_module_is_taken_apart_and_put_together_as_it_was() -> None:
    for path, parts in zip(bundled(), ORIGINALS, strict=True):
        assert sections(assembled(parts)) == parts
        assert len(parts) > 5, path


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(
        bent,
        st.sampled_from(ORIGINALS),
        st.lists(
            st.tuples(st.integers(0, len(CHANGES) - 1), st.integers(0, 20), st.binary(min_size=1, max_size=8)),
            max_size=3,
        ),
    )
)
def test_bent_modules_end_in_typed_errors_in_time_and_leave_the_host_as_it_was(loader: Loader, wasm: bytes) -> None:
    loader.feed(wasm)
