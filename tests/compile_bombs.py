"""Modules that are small, or no larger than may be, and that take a compiler long, or much memory.

``BOMBS`` has them by name: each a function of a scale, where 1.0 is a size that a host should survive without trouble
and 10.0 is a bomb. All are valid, and export the function ``manifest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["BOMBS"]

HEADER = b"\0asm\x01\0\0\0"
_I32, _I64, _V128, _EMPTY = 0x7F, 0x7E, 0x7B, 0x40
_BLOCK, _LOOP, _IF, _END, _BR_IF, _BR_TABLE = 0x02, 0x03, 0x04, 0x0B, 0x0D, 0x0E
_CALL, _DROP, _LOCAL_GET, _LOCAL_SET, _I32_CONST, _ADD, _MUL = 0x10, 0x1A, 0x20, 0x21, 0x41, 0x6A, 0x6C


def number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def signed(value: int) -> bytes:
    encoded = bytearray()
    while not -64 <= value < 64:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value & 0x7F])


def listed(items: Iterable[bytes]) -> bytes:
    items = list(items)
    return number(len(items)) + b"".join(items)


def section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + number(len(body)) + body


def text(name: str) -> bytes:
    return number(len(name)) + name.encode()


def body(code: bytes, *locals_: tuple[int, int]) -> bytes:
    """``locals_`` are (how many, of which type)."""
    declared = listed(number(count) + bytes([kind]) for count, kind in locals_)
    content = declared + code + bytes([_END])
    return number(len(content)) + content


#: (param i32) (result i32), and () -> ()
_TYPES = [b"\x60\x01\x7f\x01\x7f", b"\x60\x00\x00"]


def module(
    *functions: bytes, types: Iterable[bytes] = (), before: bytes = b"", between: bytes = b"", after: bytes = b""
) -> bytes:
    """``functions`` have type 0. The exported one is the last, does nothing, and has type 1."""
    return b"".join(
        (
            HEADER,
            section(1, listed([*_TYPES, *types])),
            section(3, number(len(functions) + 1) + bytes(len(functions)) + b"\x01"),
            before,
            section(7, listed([text("manifest") + b"\x00" + number(len(functions))])),
            between,
            section(10, listed([*functions, body(b"")])),
            after,
        )
    )


# --- functions --------------------------------------------------------------------------------------------------------


def long_function(scale: float) -> bytes:
    step = bytes([_LOCAL_GET, 0, _I32_CONST, 3, _ADD, _LOCAL_SET, 0, _LOCAL_GET, 0, _LOCAL_GET, 0, _MUL, _LOCAL_SET, 0])
    return module(body(step * int(50_000 * scale) + bytes([_LOCAL_GET, 0])))


def locals_through_branches(scale: float) -> bytes:
    """Every variable is alive across every branch, and changed in it: variables times branches."""
    count = min(50_000, int(1_000 * scale))
    step = b"".join(
        bytes([_LOCAL_GET, 0, _IF, _EMPTY, _LOCAL_GET, 0, _LOCAL_SET]) + number(1 + at % count) + bytes([_END])
        for at in range(int(2_000 * scale))
    )
    use = b"".join(bytes([_LOCAL_GET]) + number(1 + at) + bytes([_ADD]) for at in range(count))
    return module(body(step + bytes([_LOCAL_GET, 0]) + use, (count, _I32)))


def variables_around_loops(scale: float) -> bytes:
    """As before, with loops: whether a variable changes in one is known only at its end."""
    count = min(50_000, int(1_000 * scale))
    depth = int(300 * scale)
    opening = bytes([_LOOP, _EMPTY]) * depth
    change = b"".join(bytes([_LOCAL_GET, 0, _LOCAL_SET]) + number(1 + at) for at in range(count))
    closing = bytes([_LOCAL_GET, 0, _BR_IF, 0, _END]) * depth
    use = b"".join(bytes([_LOCAL_GET]) + number(1 + at) + bytes([_ADD]) for at in range(count))
    return module(body(opening + change + closing + bytes([_LOCAL_GET, 0]) + use, (count, _I32)))


def branch_tables(scale: float) -> bytes:
    """Each of many tables may branch to each of many blocks."""
    depth = int(200 * scale)
    table = bytes([_LOCAL_GET, 0, _BR_TABLE]) + listed(number(at) for at in range(depth)) + number(0)
    inner = b"".join(bytes([_BLOCK, _EMPTY]) + table + bytes([_END]) for _ in range(int(100 * scale)))
    return module(body(bytes([_BLOCK, _EMPTY]) * depth + inner + bytes([_END]) * depth + bytes([_LOCAL_GET, 0])))


def deep_blocks(scale: float) -> bytes:
    depth = int(60_000 * scale)
    return module(body(bytes([_BLOCK, _EMPTY]) * depth + bytes([_END]) * depth + bytes([_LOCAL_GET, 0])))


def deep_ifs(scale: float) -> bytes:
    depth = int(30_000 * scale)
    return module(body(bytes([_LOCAL_GET, 0, _IF, _EMPTY]) * depth + bytes([_END]) * depth + bytes([_LOCAL_GET, 0])))


def deep_expression(scale: float) -> bytes:
    depth = int(60_000 * scale)
    return module(body(bytes([_LOCAL_GET, 0]) * (depth + 1) + bytes([_ADD]) * depth))


def many_functions(scale: float) -> bytes:
    one = body(bytes([_LOCAL_GET, 0]))
    return module(*[one] * int(20_000 * scale))


def many_calls(scale: float) -> bytes:
    """A thousand arguments and a thousand results each."""
    wide = b"\x60" + listed([bytes([_I32])] * 1_000) + listed([bytes([_I32])] * 1_000)
    step = bytes([_LOCAL_GET, 0]) * 1_000 + bytes([_CALL, 1]) + bytes([_DROP]) * 1_000
    callee = body(b"".join(bytes([_LOCAL_GET]) + number(at) for at in range(1_000)))
    caller = body(step * int(50 * scale) + bytes([_LOCAL_GET, 0]))
    return b"".join(
        (
            HEADER,
            section(1, listed([*_TYPES, wide])),
            section(3, b"\x03\x00\x02\x01"),
            section(7, listed([text("manifest") + b"\x00\x02"])),
            section(10, listed([caller, callee, body(b"")])),
        )
    )


def vectors(scale: float) -> bytes:
    """Of 16 bytes, alive all at once: what no register has room for is spilled."""
    count = min(50_000, int(2_000 * scale))
    sum_ = b"".join(bytes([_LOCAL_GET]) + number(1 + at) + b"\xfd\x9c\x01" for at in range(1, count))
    rounds = b"".join(
        bytes([_LOCAL_GET]) + number(1) + sum_ + bytes([_LOCAL_SET]) + number(1 + turn)
        for turn in range(int(4 * scale))
    )
    return module(body(rounds + bytes([_LOCAL_GET, 0]), (count, _V128)))


# --- everything else --------------------------------------------------------------------------------------------------


def many_types(scale: float) -> bytes:
    wide = [b"\x60" + listed([bytes([_I32 - at % 4])] * (at % 900)) + b"\x00" for at in range(int(2_000 * scale))]
    return module(types=wide)


def types_within_types(scale: float) -> bytes:
    """Structures that refer to the one before, all of one group."""
    count = int(20_000 * scale)
    group = b"\x4e" + listed(b"\x5f" + listed([b"\x63" + signed(2 + max(0, at - 1)) + b"\x00"]) for at in range(count))
    return module(types=[group])


def many_exports(scale: float) -> bytes:
    names = listed(
        [text("manifest") + b"\x00\x00", *(text(f"{at:0>100}") + b"\x00\x00" for at in range(int(10_000 * scale)))]
    )
    return b"".join(
        (
            HEADER,
            section(1, listed(_TYPES)),
            section(3, b"\x01\x01"),
            section(7, names),
            section(10, listed([body(b"")])),
        )
    )


def large_data(scale: float) -> bytes:
    content = bytes(range(256)) * int(16_000 * scale)
    data = b"\x00\x41\x00\x0b" + number(len(content)) + content
    return module(
        before=section(5, b"\x01\x00" + number(len(content) // 65_536 + 1)), after=section(11, listed([data]))
    )


def scattered_data(scale: float) -> bytes:
    """A byte on every other page: an image of the memory would be as large as the memory."""
    pages = min(4_000, int(400 * scale))
    data = [b"\x00\x41" + signed(at * 65_536) + b"\x0b\x01x" for at in range(0, pages, 2)]
    return module(before=section(5, b"\x01\x00" + number(pages)), after=section(11, listed(data)))


def many_segments(scale: float) -> bytes:
    count = min(100_000, int(10_000 * scale))
    return module(before=section(5, b"\x01\x00\x01"), after=section(11, listed([b"\x00\x41\x00\x0b\x01x"] * count)))


def large_elements(scale: float) -> bytes:
    """The largest table that may be, filled again and again."""
    elements = b"\x00\x41\x00\x0b" + listed([b"\x00"] * 100_000)
    table = section(4, b"\x01\x70\x00" + number(1_000_000))
    return module(body(bytes([_LOCAL_GET, 0])), before=table, between=section(9, listed([elements] * int(10 * scale))))


def long_initial_values(scale: float) -> bytes:
    expression = b"\x41\x01" * 2 + b"\x6a" + b"\x41\x01\x6a" * int(20_000 * scale) + b"\x0b"
    return module(before=section(6, listed([b"\x7f\x00" + expression] * 10)))


def large_custom_section(scale: float) -> bytes:
    return module() + section(0, text("notes") + bytes(int(5_000_000 * scale)))


def large_name_section(scale: float) -> bytes:
    names = listed(number(at) + text("n" * 60) for at in range(int(10_000 * scale)))
    return module(*[body(bytes([_LOCAL_GET, 0]))] * 1_000) + section(0, text("name") + section(1, names))


BOMBS: dict[str, Callable[[float], bytes]] = {
    make.__name__: make
    for make in (
        long_function,
        locals_through_branches,
        variables_around_loops,
        branch_tables,
        deep_blocks,
        deep_ifs,
        deep_expression,
        many_functions,
        many_calls,
        vectors,
        many_types,
        types_within_types,
        many_exports,
        large_data,
        scattered_data,
        many_segments,
        large_elements,
        long_initial_values,
        large_custom_section,
        large_name_section,
    )
}
