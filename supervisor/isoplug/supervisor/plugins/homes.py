"""Which plugin lives in which folder, and what has to be done when that has changed. Rules without I/O.

A plugin is its id, wherever its folder is: folders may be renamed, and two of them may change places. A folder whose
module tells another id than before is somebody's mistake, unless the plugin that lived there has moved elsewhere: the
old plugin stays, for its rules and its data are its id's, and nobody said that it should go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Changes", "Found", "Resident", "changes"]


class Found(NamedTuple):
    """A folder with a module. ``plugin_id`` and ``sha256`` are None when it cannot be told whose it is."""

    name: str
    plugin_id: str | None
    sha256: str | None


class Resident(NamedTuple):
    """A plugin that is loaded, the folder that it was loaded from, and its module."""

    plugin_id: str
    name: str
    sha256: str


class Changes(NamedTuple):
    """``load`` has folders; ``upgrade``, ``move`` and ``stay`` have folders by plugin id; ``unload`` has ids.

    Refused are the folders under ``taken``, with the folder that has their id, and under ``renamed``, with the id of
    the plugin that lives there.
    """

    load: tuple[str, ...]
    upgrade: dict[str, str]
    move: dict[str, str]
    stay: dict[str, str]
    unload: tuple[str, ...]
    taken: dict[str, str]
    renamed: dict[str, str]


def changes(found: Sequence[Found], residents: Sequence[Resident]) -> Changes:
    """What to do so that what is loaded is what was found. Each folder and each plugin is answered once."""
    homes, taken = _homes(found, {resident.plugin_id: resident.name for resident in residents})
    renamed = _evict(homes, found, residents)
    known = {resident.plugin_id: resident for resident in residents}
    sha256 = {folder.name: folder.sha256 for folder in found}
    load = tuple(name for plugin_id, name in homes.items() if plugin_id not in known)
    upgrade, move, stay = dict[str, str](), dict[str, str](), dict[str, str]()
    for plugin_id, name in homes.items():
        if plugin_id in known:
            resident = known[plugin_id]
            is_same = sha256[name] == resident.sha256
            target = upgrade if not is_same else stay if name == resident.name else move
            target[plugin_id] = name
    unload = tuple(r.plugin_id for r in residents if r.plugin_id not in homes and r.name not in sha256)
    return Changes(load, upgrade, move, stay, unload, taken, renamed)


def _homes(found: Sequence[Found], before: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """A folder for each id: the one where it lives already, else the first by name; and those that come too late."""
    homes, taken = dict[str, str](), dict[str, str]()
    for folder in sorted(found, key=lambda folder: (before.get(folder.plugin_id or "") != folder.name, folder.name)):
        if folder.plugin_id is None:
            continue
        if folder.plugin_id in homes:
            taken[folder.name] = homes[folder.plugin_id]
        else:
            homes[folder.plugin_id] = folder.name
    return homes, taken


def _evict(homes: dict[str, str], found: Sequence[Found], residents: Sequence[Resident]) -> dict[str, str]:
    """Take folders back from ids that settled where a plugin lives that has nowhere else to go."""
    ids = {folder.name: folder.plugin_id for folder in found}
    renamed: dict[str, str] = {}
    is_changed = True
    while is_changed:
        is_changed = False
        for resident in residents:
            intruder = ids.get(resident.name)
            if resident.plugin_id not in homes and intruder is not None and homes.get(intruder) == resident.name:
                del homes[intruder]  # which may leave that one without a home in turn
                renamed[resident.name] = resident.plugin_id
                is_changed = True
    return renamed
