"""Which layers a worker has: what this machine offers, what the worker says and what the kernel says, put together.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from isoplug.shared.lockdown import Layer, Protection
from isoplug.supervisor.doctor.process import Sight
from isoplug.supervisor.doctor.report import Evidence, LayerFinding

__all__ = ["find_layers"]

#: What was read, and whether it shows the layer; None: it shows nothing.
_Reading: TypeAlias = tuple[bool | None, str]

#: The filters that a worker has of its own: one a stage.
_STAGES = 3
_ONLY_ROOT = "only root can apply it; this worker runs as your own user"
_ITS_WORD = "by the worker's word; "


def find_layers(
    offers: Mapping[Layer, str], protection: Protection | None, worker: Sight | None, supervisor: Sight
) -> tuple[LayerFinding, ...]:
    """``offers``: for each layer that this user can apply why it does not hold here, nothing when it does. ``worker``
    and ``protection``: None when none could be started."""
    return tuple(_finding(layer, offers, protection, worker, supervisor) for layer in Layer)


def _finding(
    layer: Layer,
    offers: Mapping[Layer, str],
    protection: Protection | None,
    worker: Sight | None,
    supervisor: Sight,
) -> LayerFinding:
    if layer not in offers:
        return LayerFinding(layer, None, None, None, _ONLY_ROOT)
    is_offered = not offers[layer]
    if worker is None or protection is None:
        gap = _gap(layer, offers[layer]) if offers[layer] else (None, None)
        return LayerFinding(layer, is_offered, None, None, "no worker was started", *gap)
    if layer in protection.missing:
        return LayerFinding(layer, is_offered, False, None, "-", *_gap(layer, protection.missing[layer]))
    is_shown, found = _READERS[layer](worker, supervisor)
    if is_shown is False:
        problem = f"a worker says that it has it, and /proc says otherwise: {found}"
        return LayerFinding(layer, is_offered, False, Evidence.KERNEL, found, problem, "report it, see SECURITY.md")
    if is_shown is None:
        hold = f"here it {offers[layer]}" if offers[layer] else "tried here, it holds"
        return LayerFinding(layer, is_offered, True, Evidence.WORKER, f"{_ITS_WORD}{found or hold}")
    return LayerFinding(layer, is_offered, True, Evidence.KERNEL, found)


def _gap(layer: Layer, reason: str) -> tuple[str, str]:
    """What is missing, and what to do. A layer's own reason says the second in a few words after a semicolon."""
    return reason.partition("; ")[0], _ADVICE[layer]


_ADVICE = {
    Layer.JAIL: "give the container CAP_SYS_CHROOT (docker run --cap-add SYS_CHROOT), or run isoplug as another user",
    Layer.USER: "give the container CAP_SETUID and CAP_SETGID and map at least 1,000 user ids (subuid(5)), or run "
    "isoplug as another user",
    Layer.CAPABILITIES: "let the container's seccomp profile allow prctl(2) and capset(2)",
    Layer.NO_NEW_PRIVILEGES: "let the container's seccomp profile allow prctl(2)",
    Layer.UNDUMPABLE: "let the container's seccomp profile allow prctl(2)",
    Layer.LANDLOCK: "run Linux 5.13 or newer with landlock in its lsm= list (/sys/kernel/security/lsm), and let the "
    "container's seccomp profile allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self",
    Layer.SECCOMP: "run a kernel with CONFIG_SECCOMP_FILTER, and let the container's seccomp profile allow seccomp(2)",
}


# --- what /proc shows of each layer ---------------------------------------------------------------------------------


def _jail(worker: Sight, supervisor: Sight) -> _Reading:
    if worker.root is None:
        return None, ""
    return worker.root not in ("/", supervisor.root), f"its root folder is {worker.root}"


def _user(worker: Sight, supervisor: Sight) -> _Reading:
    """One user id and one group id, which are nobody else's."""
    theirs, ours = worker.threads, supervisor.threads
    ids = frozenset[int]().union(*(thread.uids | thread.gids for thread in theirs))
    groups = frozenset[int]().union(*(thread.groups for thread in theirs))
    others = frozenset[int]({0}).union(*(thread.uids | thread.gids for thread in ours))
    found = f"user and group {', '.join(map(str, sorted(ids)))}"
    return len(ids) == 1 and not ids & others and not groups, found + (", in other groups" if groups else "")


def _capabilities(worker: Sight, supervisor: Sight) -> _Reading:
    """What the bounding set allows counts only where an exec could give it, see ``no_new_privs``."""
    held = [
        name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if any(t.capabilities[name] for t in worker.threads)
    ]
    if held:
        return False, f"{', '.join(held)} not empty"
    is_bounded = not any(thread.capabilities["CapBnd"] for thread in worker.threads)
    return True, f"none in {_all(worker)}" + (", none to be had" if is_bounded else "")


def _no_new_privileges(worker: Sight, supervisor: Sight) -> _Reading:
    return all(thread.has_no_new_privileges for thread in worker.threads), f"NoNewPrivs in {_all(worker)}"


def _undumpable(worker: Sight, supervisor: Sight) -> _Reading:
    """The kernel gives /proc/<pid>/status of such a process to root."""
    uids = frozenset[int]().union(*(thread.uids for thread in worker.threads))
    if uids == {0}:
        return None, ""
    return worker.owner not in uids, f"its files in /proc belong to user {worker.owner}"


def _landlock(worker: Sight, supervisor: Sight) -> _Reading:
    return None, ""


def _seccomp(worker: Sight, supervisor: Sight) -> _Reading:
    """A thread inherits the filters of the process that started it."""
    filtering = 2  # SECCOMP_MODE_FILTER
    if any(thread.seccomp_mode != filtering for thread in worker.threads):
        return False, "a thread without a filter"
    inherited = min((thread.seccomp_filters or 0) for thread in supervisor.threads)
    counts = {thread.seccomp_filters for thread in worker.threads}
    if None in counts:
        return True, f"filters in {_all(worker)}"
    own = min(count - inherited for count in counts if count is not None)
    return own >= _STAGES, f"{own} filters in {_all(worker)}"


def _all(worker: Sight) -> str:
    return f"all {len(worker.threads)} threads"


_READERS: Mapping[Layer, Callable[[Sight, Sight], _Reading]] = {
    Layer.JAIL: _jail,
    Layer.USER: _user,
    Layer.CAPABILITIES: _capabilities,
    Layer.NO_NEW_PRIVILEGES: _no_new_privileges,
    Layer.UNDUMPABLE: _undumpable,
    Layer.LANDLOCK: _landlock,
    Layer.SECCOMP: _seccomp,
}
