"""Tables for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.plugins.manifest import Manifest

if TYPE_CHECKING:  # only their own commands need them
    from isoplug.supervisor.bench.goals import Verdict
    from isoplug.supervisor.bench.report import Report as BenchReport
    from isoplug.supervisor.chaos import Fault, Promise, Report

__all__ = [
    "Screen",
    "bench_report",
    "chaos_faults",
    "chaos_report",
    "crash",
    "crash_table",
    "doctor_report",
    "manifest",
    "poisoned_inputs",
    "reload_report",
    "replayed",
    "screen",
    "service_report",
    "status_table",
]

_CHANGES = ("loaded", "upgraded", "unloaded", "configured")
_UNBOUNDED_COLUMNS = 10_000
_STATE_STYLES = {"ready": "green", "busy": "cyan", "asleep": "dim", "quarantined": "red", "backing_off": "yellow"}


def status_table(statuses: Sequence[PluginStatus], console: Console | None = None) -> None:
    """One row a plugin, then why workers were lost, to stdout."""
    console = console or _stdout()
    if not statuses:
        console.print("no plugins")
        return
    table = _table()
    table.add_column("plugin", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("pid", "calls", "failed", "restarts", "memory", "cpu"):
        table.add_column(heading, justify="right", no_wrap=True)
    for status in statuses:
        table.add_row(
            _plain(f"{status.id} {status.version}"),
            Text(status.state, style=_STATE_STYLES.get(status.state, "")),
            _pids(status.worker_pids),
            str(status.calls),
            str(status.failures),
            str(status.restarts),
            f"{status.rss_bytes / 2**20:.0f} MiB",
            f"{status.cpu_seconds:.2f} s",
        )
    console.print(table)
    for status in statuses:
        if status.last_failure is not None:
            console.print(Text.assemble("last failure of ", _plain(status.id), ": ", _plain(status.last_failure)))
        if status.upgrade is not None:
            console.print(Text.assemble("upgrade of ", _plain(status.id), ": ", _plain(status.upgrade)))


def _pids(pids: Sequence[int]) -> str:
    """The first, and how many more; ``--json`` has all. A plugin has up to a dozen, and a row has 80 columns."""
    if not pids:
        return "-"
    return f"{pids[0]} +{len(pids) - 1}" if len(pids) > 1 else str(pids[0])


def service_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """A service's status: itself, its plugins, what it could not load; to stdout."""
    console = console or _stdout()
    service = report["service"]
    console.print(
        _plain(
            f"isoplug {service['version']}, process {service['pid']}, {service['phase']}, up for "
            f"{_duration(service['uptime_seconds'])}, calls in progress: {service['calls']}"
        )
    )
    console.print(_plain(f"state: {service['state_dir']}"))
    if weakness := _weakness(service.get("lockdown")):
        console.print(Text(weakness, style="yellow"))
    statuses = [PluginStatus(**{**facts, "worker_pids": tuple(facts["worker_pids"])}) for facts in report["plugins"]]
    if service["phase"] == "starting":
        console.print("the plugins are being loaded")
    else:
        status_table(statuses, console)
    for plugin_id in (status.id for status in statuses if status.state == "quarantined"):
        console.print(_plain(f"{plugin_id} is quarantined: find the cause, then isoplug reset {plugin_id}"))
    for plugin_id, count in report["poisoned"].items():
        inputs = "1 input that kills its worker is" if count == 1 else f"{count} inputs that kill its worker are"
        console.print(_plain(f"{plugin_id}: {inputs} set aside; see isoplug poisoned {plugin_id}"))
    for name, error in report["load_errors"].items():
        console.print(Text.assemble(("not loaded: ", "red"), _plain(f"{name}: {error['code']}: {error['message']}")))


def _weakness(lockdown: Mapping[str, Any] | None) -> str:
    """What workers do not have of the lock-down; nothing when they have all of it. None: no plugins are loaded yet."""
    if lockdown is None:
        return ""
    if lockdown["mode"] == "off":
        return 'lock-down: off, workers keep every right of this user; set lockdown = "best-effort"'
    return f"lock-down: without {', '.join(lockdown['missing'])}; see isoplug doctor" if lockdown["missing"] else ""


def reload_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """What a reload has changed, a line each, to stdout."""
    console = console or _stdout()
    lines = [f"{what}: {', '.join(report[what])}" for what in _CHANGES if report[what]]
    lines += [f"refused: {name}: {error['code']}: {error['message']}" for name, error in report["refused"].items()]
    config = report["config"]
    if config["applied"]:
        lines.append(f"applied: {', '.join(config['applied'])}")
    if config["needs_restart"]:
        lines.append(f"needs a restart of the service: {', '.join(config['needs_restart'])}")
    for line in lines or ["nothing has changed"]:
        console.print(_plain(line))


def poisoned_inputs(inputs: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """A line each, to stdout."""
    console = console or _stdout()
    for one in inputs:
        at = _time(one["at"])
        console.print(_plain(f"{one['plugin_id']} {one['what']}: {one['last_failure']} ({at})  {one['fingerprint']}"))
    if not inputs:
        console.print("no input is set aside")


def crash_table(reports: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """One row a kind of crash, to stdout."""
    console = console or _stdout()
    if not reports:
        console.print("no crashes")
        return
    table = _table()
    for heading in ("id", "latest"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what crashed, and how", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    for report in reports:
        latest = report["occurrences"][0]
        signature, count = _plain(report["signature"]), str(report["count"])
        table.add_row(_plain(report["id"]), _time(latest["at"]), signature, _plain(latest["outcome"]), count)
    console.print(table)


def crash(report: Mapping[str, Any], console: Console | None = None) -> None:
    """All that is known of one kind of crash, to stdout. ``occurrences`` have ``replay``, the command for it."""
    console = console or _stdout()
    latest, *earlier = report["occurrences"]
    served = report["calls_served"]
    worker = "-" if report["pid"] is None else f"process {report['pid']}, in its call {served}"
    facts = [("crash", report["signature"]), ("doing", latest["doing"]), ("outcome", latest["outcome"])]
    facts += [("times", f"{report['count']}, the first at {_time(report['first_at'])}"), ("worker", worker)]
    facts += [("error", f"{report['code']}: {report['message'].partition(chr(10))[0]}")]
    facts += [(name, report[name]) for name in ("reason", "evidence") if report[name]]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (("id", report["id"]), ("latest", _time(latest["at"])), *facts):
        table.add_row(name, _plain(text))
    console.print(table)
    more = report["effect_count"] - len(report["effects"])
    sections = [
        ("trap", (report["trap"] or "").splitlines()),
        ("effects", [*report["effects"], *([f"and {more} more"] if more else [])]),
        ("last host calls", [" ".join(filter(None, call[:-1])) + f": {call[-1]}" for call in report["host_calls"]]),
        ("log", [f"{plugin} {level}: {message}" for plugin, level, message in report["log"]]),
        ("before", [f"{_time(one['at'])} {one['doing']}: {one['outcome']}" for one in earlier]),
    ]
    for heading, lines in sections:
        if lines:
            console.print(Text(f"\n{heading}", style="bold"))
            for line in lines:
                console.print(Text("  ") + _plain(line))
    replays = [one["replay"] for one in report["occurrences"] if one["replay"]]
    console.print(Text("\nrecording", style="bold"))
    for line in replays or ["none; isoplug run --record keeps what the next one was told"]:
        console.print(Text("  ") + _plain(line), soft_wrap=True)


def replayed(report: Mapping[str, Any], console: Console | None = None) -> None:
    """How a recorded call went the second time, to stdout."""
    console = console or _stdout()
    console.print(Text(_plain(report["summary"]).plain, style="green" if report["same"] else "red"))
    for note in report["notes"]:
        console.print(_plain(f"note: {note}"))


def doctor_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """What ``isoplug doctor`` found: layers, facts, what to do about each gap, and the verdict; to stdout."""
    console = console or _stdout()
    table = _table()
    for heading in ("layer", "this machine", "a worker"):
        table.add_column(heading, no_wrap=True)
    table.add_column("known from", overflow="fold")
    for layer in report["layers"]:
        table.add_row(layer["name"], _yes(layer["offered"]), _yes(layer["applied"]), _plain(layer["found"]))
    console.print(table, "")
    for heading, facts in _doctor_facts(report):
        console.print(Text.assemble((f"{heading}: ", "bold"), _plain(", ".join(facts))))
    gaps = [(layer["name"], layer["problem"], layer["advice"]) for layer in report["layers"] if layer["problem"]]
    gaps += [(note["about"], note["problem"], note["advice"]) for note in report["notes"]]
    for about, problem, advice in gaps:
        console.print(Text.assemble("\n", (about, "yellow"), ": ", _plain(problem), "\n  What to do: ", _plain(advice)))
    if report["failure"]:
        console.print(Text.assemble("\n", ("no worker could be started", "red"), ": ", _plain(report["failure"])))
    console.print("", *_doctor_verdict(report), sep="\n")


def _doctor_facts(report: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    worker, machine = report["worker"], report["machine"]
    if worker is not None:
        descriptors = [] if worker["descriptors"] is None else [f"{worker['descriptors']} descriptors"]
        yield "the worker", [f"user {worker['uid']}", f"{worker['threads']} threads", *descriptors]
        yield "its limits", [_limit(name, value) for name, value in worker["limits"].items()]
    memory = machine["cgroup_memory_bytes"] or machine["memory_bytes"]
    yield (
        "this machine",
        [
            f"{machine['system']} {machine['kernel']} on {machine['architecture']}",
            f"Landlock {machine['landlock_abi']}" if machine["landlock_abi"] else "no Landlock",
            f"user {machine['user']}",
            *(_limit(name, machine[name]) for name in ("open_files", "processes")),
            _limit("memory_bytes", memory),
            f"sockets in {machine['runtime_folder']}",
        ],
    )
    yield "versions", [f"{name} {number}" for name, number in report["versions"].items()]


def _doctor_verdict(report: Mapping[str, Any]) -> list[Text]:
    can = "starts workers here" if report["full"] else "would refuse to start workers here"
    lines = [Text(f'lockdown = "full" {can}.', style="green" if report["full"] else "red")]
    if report["lockdown"] == "off":
        lines.append(Text('This configuration has lockdown = "off": its workers get no layer at all.', style="yellow"))
    return lines


def _yes(fact: bool | None) -> Text:
    return Text("-") if fact is None else Text("yes", style="green") if fact else Text("no", style="red")


def _limit(name: str, value: int | None) -> str:
    """``open files 64``, ``data 512 MiB``, ``cpu seconds unbounded``."""
    words = name.removesuffix("_bytes").replace("_", " ")
    if value is None:
        return f"{words} unbounded"
    return f"{words} {value / 2**20:.0f} MiB" if name.endswith("_bytes") and value else f"{words} {value}"


def chaos_faults(faults: Sequence[Fault], console: Console | None = None) -> None:
    """What each imitates, and its parameters, to stdout."""
    console = console or _stdout()
    for fault in faults:
        console.print(Text.assemble((fault.name, "bold"), ": ", _plain(fault.imitates())))
        parameters = ", ".join(f"{name} = {json.dumps(value)}" for name, value in fault.defaults().items())
        if parameters:
            console.print(_plain(f"    {parameters}"))


def bench_report(report: BenchReport, console: Console | None = None) -> None:
    """What was measured, section by section, and the goals, to stdout."""
    from isoplug.supervisor.bench.figures import shown

    console = console or _stdout()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)  # closer than others: the names are long
    for heading in ("figure", "samples", "p10", "median", "p90", "p99"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=heading != "figure")
    section = None
    for figure in report.figures:
        if figure.section != section:
            section = figure.section
            table.add_row(Text(section, style="bold"))
        numbers = (shown(value, figure.unit) for value in (figure.p10, figure.p50, figure.p90, figure.p99))
        table.add_row(f"  {figure.name}", str(figure.samples), *numbers)
    console.print(table)
    for name, why in report.missing.items():
        console.print(_plain(f"not measured: {name}: {why}"))
    if again := report.options.get("measured_again"):
        console.print(_plain(f"measured again, having missed a goal by more than twice: {', '.join(map(str, again))}"))
    console.print()
    goals = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("goal", "measured", "at", ""):
        goals.add_column(heading, justify="left" if heading in ("goal", "") else "right", no_wrap=heading != "goal")
    for verdict in report.verdicts:
        goals.add_row(Text(verdict.goal.name), *_against(verdict))
    console.print(goals)
    console.print()
    console.print(_plain(_machine(report.facts)))


def _against(verdict: Verdict) -> tuple[str, str, Text]:
    """Measured, bound, and what to make of it."""
    from isoplug.supervisor.bench.figures import shown

    goal = verdict.goal

    def words(value: float) -> str:
        return f"{value:.2f}" if goal.unit is None else shown(value, goal.unit)

    bound = f"{'≥' if goal.is_floor else '≤'} {words(goal.bound)}"
    if verdict.value is None:
        return "-", bound, Text("not measured", style="dim")
    if verdict.is_met:
        return words(verdict.value), bound, Text("met", style="green")
    word, style = ("missed by more than twice", "red") if verdict.is_far_off else ("missed", "yellow")
    return words(verdict.value), bound, Text(word, style=style)


def _machine(facts: Mapping[str, Any]) -> str:
    lockdown = facts.get("lockdown", {})
    missing = ", ".join(lockdown.get("missing", {}))
    layers = f"workers without {missing}" if missing else "workers have every layer of the lock-down"
    load = facts.get("load") or [0.0]
    return (
        f"isoplug {facts.get('isoplug')} on {facts.get('processor')}, {facts.get('cores')} cores (load {load[0]:.1f} "
        f"before it began), Linux {facts.get('kernel')}, Python {facts.get('python')}; {layers}"
    )


def chaos_report(report: Report, console: Console | None = None) -> None:
    """A run: its faults and how the calls that they struck ended, and the promises, to stdout."""
    from isoplug.supervisor.chaos.timeline import seconds_text

    console = console or _stdout()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)  # closer than others: so many columns in 80
    table.add_column("fault", overflow="fold")
    for heading in ("injected", "answered", "failed", "wrong", "late", "p50", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.faults:
        bad = [Text(str(count), style="red" if count else "") for count in (row.wrong, row.late)]
        times = [seconds_text(row.recovery(one)) if row.recovery_seconds else "-" for one in (50, 99, 100)]
        table.add_row(_plain(row.name), str(row.injected), str(row.answered), str(row.failed), *bad, *times)
    console.print(table)
    console.print(Text("p50, p99, max: the time from a strike to the next answer of the same plugin\n", style="dim"))
    for promise in report.promises:
        _promise(promise, console)
    if idle := report.idle_faults:
        console.print()
        console.print(_plain(f"Never struck: {', '.join(idle)}. More calls, or calls that give them occasion, help."))
    if report.always_failing:
        listed = ", ".join(f"{what} ({error})" for what, error in report.always_failing)
        console.print()
        console.print(
            _plain(f"Failed without faults as well: {listed}. --command PLUGIN:COMMAND=JSON gives parameters.")
        )
    for name, error in report.not_loaded:
        console.print()
        console.print(_plain(f"Not loaded, and so not tested: {name}: {error}"))
    console.print()
    if not report.injections:
        console.print(Text("No fault struck: this run has tested nothing.", style="yellow"))
    console.print(_plain(f"{len(report.calls)} calls, {len(report.injections)} faults, seed {report.plan.seed}."))


def _promise(promise: Promise, console: Console) -> None:
    is_kept, has_ticks = promise.broken is None, console.encoding.startswith("utf")
    tick, word, style = ("✓", "kept", "green") if is_kept else ("✗", "broken", "red")
    if is_kept and not promise.is_checked:
        tick, word, style = "-", "unchecked", "dim"
    text = _plain(f"{promise.name}: {promise.means}")
    console.print(Text.assemble((tick if has_ticks else word, style), " ", text))
    if promise.broken is not None:
        console.print(Text.assemble("  ", _plain(str(promise.broken)), style="red"))
    if promise.note:
        console.print(Text.assemble("  ", _plain(promise.note)), style="dim")


@contextmanager
def screen() -> Iterator[Screen]:
    """The whole terminal, given back at the end."""
    console = _stdout()
    with console.screen(hide_cursor=True):
        yield Screen(console)


class Screen:
    """Shows one report after the other in the same place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def draw(self, report: Mapping[str, Any]) -> None:
        self._console.clear()
        service_report(report, self._console)
        self._console.print(Text("Ctrl-C ends this, not the service.", style="dim"))


def manifest(manifest: Manifest, console: Console | None = None) -> None:
    """The manifest's fields, one a line, to stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = [("id", manifest.id), ("name", manifest.name), ("version", manifest.version)]
    rows += [("description", manifest.description), ("capabilities", ", ".join(manifest.capabilities) or "-")]
    rows += [("commands", ", ".join(manifest.commands) or "-"), ("protocol", str(manifest.protocol_version))]
    rows += [("needs application", manifest.min_app_version or "any")]
    requested = manifest.requested_permissions
    for permission, rule in (requested.defaults if requested is not None else {}).items():
        why = requested.reasons.get(permission, "") if requested is not None else ""
        rows.append((f"asks for {permission}", f"{json.dumps(rule, ensure_ascii=False)} {why}".strip()))
    for name, text in rows:
        table.add_row(_plain(name), _plain(text))
    (console or _stdout()).print(table)


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)  # so that a row fits into 80 columns


def _stdout() -> Console:
    """As wide as the terminal; for programs such as ``grep``, wide enough to keep a row on its line."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNBOUNDED_COLUMNS)


def _time(at: float) -> str:
    """Unix time as a local time."""
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _duration(seconds: float) -> str:
    """``3 d 4 h``, ``5 min 6 s``: the two largest units."""
    rest, words = int(seconds), list[str]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or words or unit == "s":
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def _plain(text: str) -> Text:
    """Guests write these: no markup, no control characters, and no lines of their own (a trap has a line for each
    function it went through)."""
    line = re.sub(r"\s*\n\s*", "; ", text)
    return Text("".join(character if character.isprintable() else "\ufffd" for character in line))
