"""What text in a configuration means: durations with a unit, sizes with a unit, version numbers. No I/O."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_duration", "parse_size", "parse_version"]

# In milliseconds: "500ms" is then exactly 0.5 and "200ms" exactly 0.2, where 200 * 0.001 would be off by a bit.
_DURATION_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_SIZE_UNITS: Final = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}

# At most 15 digits before and 6 after the point: far beyond every bound here, and floats hold them well.
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]*)", re.ASCII)
_VERSION: Final = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds: ``"500ms"`` is 0.5, ``"30s"``, ``"5m"``, ``"1.5h"``.

    Raises:
        ValueError: not a number with one of the units; the text says what to write.
    """
    number, factor = _split(text, _DURATION_UNITS, 's", "ms", "m", "h')
    return float(number) * factor / 1000


def parse_size(text: str) -> int:
    """Bytes: ``"64MiB"`` (2**20 each), ``"512KB"`` (1000 each), ``"1GiB"``, ``"100B"``. Units in any case.

    ``"64M"`` is refused: some read it as MB, others as MiB.

    Raises:
        ValueError: not a number with one of the units, or not a whole number of bytes; the text says what to
            write.
    """
    number, factor = _split(text, _SIZE_UNITS, 'KiB", "MiB", "GiB", "KB", "MB", "GB", "B')
    if "." not in number:
        return int(number) * factor
    size = float(number) * factor
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """``major.minor[.patch]`` in decimal digits, comparable; None for anything else."""
    match = _VERSION.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def _split(text: str, units: dict[str, int], shown: str) -> tuple[str, int]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'must be a number with a unit ("{shown}")')
    number, unit = match[1], match[2]
    if not unit:
        raise ValueError(f'has no unit: write "{number}{shown.partition(chr(34))[0]}" (units: "{shown}")')
    for name, factor in units.items():
        if name.casefold() == unit.casefold():
            return number, factor
    raise ValueError(f'has the unknown unit {unit!r}; the units are "{shown}"')
