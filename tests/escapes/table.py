"""Which attacks by native code get through, with which layers: ``python tests/escapes/table.py [--help]``.

Every attack of ``tests/attacks`` with no layer (``off``: what it can do at all), with every layer (``all``), and with
each layer left out by itself: an attack that is stopped in every such column is stopped by two layers or more.

Who runs it counts: root's workers also get a jail and a user of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import attacks.hostile  # noqa: F401  registers them
from attacks.campaign import Verdict, campaign
from attacks.registry import ATTACKS
from guests import guest
from isoplug.shared.lockdown import ROOT_LAYERS, Layer

Table = Mapping[str, Mapping[str, Verdict]]  # column → attack → verdict

ALL, OFF = "all", "off"
#: What the kernel grants nobody without the layer: that column lacks all three, and says nothing about one of them.
_DEPENDENT = {Layer.NO_NEW_PRIVILEGES: (Layer.NO_NEW_PRIVILEGES, Layer.LANDLOCK, Layer.SECCOMP)}


def layers_here() -> list[Layer]:
    return [layer for layer in Layer if os.geteuid() == 0 or layer not in ROOT_LAYERS]


def columns() -> dict[str, Collection[Layer]]:
    """By name, the layers that are left out."""
    return {OFF: tuple(Layer), ALL: (), **{f"-{layer}": _DEPENDENT.get(layer, (layer,)) for layer in layers_here()}}


def measured(wasm: bytes, names: Collection[str], of: Collection[str]) -> Iterator[tuple[str, dict[str, Verdict]]]:
    """Column by column, the verdicts of the attacks ``of``."""
    for name, left_out in columns().items():
        if name in names:
            with tempfile.TemporaryDirectory(prefix="iso-attacks-") as folder:
                yield name, _verdicts(Path(folder), wasm, left_out, of)


def _verdicts(folder: Path, wasm: bytes, left_out: Collection[Layer], of: Collection[str]) -> dict[str, Verdict]:
    with campaign(folder, wasm, left_out) as running:
        return {attack: running.run(attack) for attack in of}


def stopping_layers(table: Table, attack: str) -> str:
    """``2+``, or the one layer that stops it, or ``none``."""
    if table[ALL][attack].outcome == "succeeded":
        return "none"
    alone = [layer for layer in layers_in(table) if table[f"-{layer}"][attack].outcome == "succeeded"]
    return ", ".join(alone) or "2+"


def layers_in(table: Table) -> list[Layer]:
    """Those that are left out by themselves in one of its columns."""
    return [layer for layer in Layer if f"-{layer}" in table and layer not in _DEPENDENT]


def as_text(table: Table) -> Iterator[str]:
    is_complete = {OFF, ALL} <= table.keys()
    yield "  ".join((f"{'attack':42}", *(f"{name:>18}" for name in table), "stopped by" if is_complete else ""))
    for name in next(iter(table.values())):
        cells = (f"{'THROUGH' if table[c][name].outcome == 'succeeded' else table[c][name]!s:>18.18}" for c in table)
        yield "  ".join((f"{name:42}", *cells, stopping_layers(table, name) if is_complete else ""))
    if is_complete:
        yield ""
        yield from summary(table)


def summary(table: Table) -> Iterator[str]:
    """Markdown, a line a family. What does nothing even without lock-down proves nothing, and is not counted."""
    yield "| family | attacks that work without lock-down | stopped by every layer together | by at least two |"
    yield "|---|---|---|---|"
    counts: dict[str, Counter[str]] = {}
    for name, verdict in table[OFF].items():
        if verdict.outcome == "succeeded":
            stopping = stopping_layers(table, name)
            counted = counts.setdefault(ATTACKS[name].family, Counter())
            counted.update({"work": 1, "stopped": int(stopping != "none"), "twice": int(stopping == "2+")})
    for family, counted in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        yield f"| {family} | {counted['work']} | {counted['stopped']} | {counted['twice']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", help="of these attacks only")
    parser.add_argument("--column", action="append", choices=columns(), help="of these columns only")
    parser.add_argument("--guest", type=Path, help="the compiled probe guest")
    parser.add_argument("--json", action="store_true", help="{column: {attack: [outcome, detail]}}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        wasm = (arguments.guest or guest("probe", Path(cache))).read_bytes()
    table = dict(measured(wasm, arguments.column or columns(), arguments.attacks or ATTACKS))
    if arguments.json:
        print(
            json.dumps({name: {a: (v.outcome, v.detail) for a, v in column.items()} for name, column in table.items()})
        )
    else:
        print(*as_text(table), sep="\n")


if __name__ == "__main__":
    main()
