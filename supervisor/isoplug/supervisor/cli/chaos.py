"""``isoplug chaos``."""

from __future__ import annotations

import functools
import random
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isoplug.supervisor.cli.options import json_option, print_json, reporting
from isoplug.supervisor.cli.outputs import require_writable, write_output
from isoplug.supervisor.cli.stopping import put_away_when_stopped

if TYPE_CHECKING:
    from isoplug.supervisor.chaos import Plan, Report
    from isoplug.supervisor.chaos.run import Progress, Settings

__all__ = ["chaos"]

#: Callers that nobody chose.
_MOST_CALLERS = 4
#: Of seeds that nobody chose: short enough to be told on the telephone.
_SEEDS = 1_000_000
#: Less than it takes to start a worker again on a slow machine; also, the repeat command says it in milliseconds.
_LEAST_TIMEOUT_SECONDS = 0.1
#: A run that took so many times as long as was asked for says why.
_MUCH_LONGER = 2.0


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the options say."""

    plugins: Path
    workspace: Path | None
    plan: Path | None
    faults: str | None
    seed: int | None
    duration: float
    calls: int | None
    callers: int
    timeout: float | None
    operations: tuple[str, ...]
    report: Path | None

    def settings(self) -> Settings:
        """Raises SetupError, InvalidArgument."""
        from isoplug.supervisor.chaos.load import parse_operation
        from isoplug.supervisor.chaos.run import Settings

        settings = Settings(
            plugins=self.plugins,
            workspace=self.workspace,
            plan=self._plan(),
            operations=tuple(parse_operation(text) for text in self.operations),
            callers=self.callers,
            duration_seconds=self.duration,
            calls=self.calls,
        )
        return settings if self.timeout is None else replace(settings, timeout_seconds=self.timeout)

    def _plan(self) -> Plan:
        from isoplug.supervisor.chaos import Plan, mixed_plan

        if self.plan is not None:
            plan = Plan.load(self.plan)
            return plan if self.seed is None else plan.seeded(self.seed)
        names = tuple(name.strip() for name in self.faults.split(",")) if self.faults else ()
        return mixed_plan(names, random.randrange(_SEEDS) if self.seed is None else self.seed)

    def command(self, seed: int, calls: int, plan: Path | None = None) -> str:
        """The command line that makes this run again; with ``plan`` instead of its own faults."""
        words = ["isoplug", "chaos", "--plugins", str(self.plugins)]
        words += ["--workspace", str(self.workspace)] if self.workspace is not None else []
        if plan or self.plan:
            words += ["--plan", str(plan or self.plan)]
        elif self.faults:
            words += ["--faults", self.faults]
        words += ["--seed", str(seed), "--calls", str(calls), "--callers", str(self.callers)]
        words += ["--timeout", f"{round(self.timeout * 1000)}ms"] if self.timeout is not None else []
        return shlex.join([*words, *(word for text in self.operations for word in ("--command", text))])


def _duration(_context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    from isoplug.supervisor.config.values import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--{option.name}: {error}") from error


def _timeout(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    seconds = _duration(context, option, text)
    if seconds is not None and seconds < _LEAST_TIMEOUT_SECONDS:
        raise click.UsageError(f"--timeout: give {_LEAST_TIMEOUT_SECONDS * 1000:.0f}ms or more, not {text}")
    return seconds


@click.command()
@click.option("--plugins", type=click.Path(path_type=Path), metavar="DIR", help="Folder with a folder per plugin.")
@click.option("--workspace", type=click.Path(path_type=Path), metavar="DIR", help="Folder whose copy plugins see.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Which faults strike where (TOML).")
@click.option(
    "--faults", metavar="NAMES", help="These faults, by chance: kill,stop. Default: all that harm no other call."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The same seed, the same faults.")
@click.option("--duration", metavar="TIME", callback=_duration, help="How long, such as 30s (the default) or 10m.")
@click.option("--timeout", metavar="TIME", callback=_timeout, help="How long a call may take.  [default: 10s]")
@click.option("--calls", type=click.IntRange(min=1), metavar="N", help="How many calls, instead of how long.")
@click.option(
    "--callers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Callers at the same time. Default: one a plugin, at most 4. Answers are compared where no two share one.",
)
@click.option(
    "--command",
    "operations",
    multiple=True,
    metavar="PLUGIN:COMMAND=PARAMS",
    help="What callers do, or EVENT:TYPE=PAYLOAD; may be repeated. Default: all that the plugins declare.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the run as an HTML page, also when it is stopped.",
)
@click.option("--no-shrink", is_flag=True, help="Do not look for the smallest plan when a promise broke.")
@click.option("--list", "is_list", is_flag=True, help="Show the faults there are, and what each imitates.")
@json_option
@functools.partial(reporting, quiet="CRITICAL")  # what fails here is meant to, and counted
def chaos(
    plugins: Path | None,
    workspace: Path | None,
    plan: Path | None,
    faults: str | None,
    seed: int | None,
    duration: float | None,
    calls: int | None,
    callers: int | None,
    timeout: float | None,
    operations: tuple[str, ...],
    report: Path | None,
    no_shrink: bool,
    is_list: bool,
    as_json: bool,
) -> None:
    """Put plugins through faults, and see whether what isoplug promises about them holds.

    Callers use the plugins while workers are killed, host services fail, and so on. Then the same calls are made
    without faults, and answers and effects compared. Everything works on copies: neither plugins nor workspace are
    touched. Exit code 1 when a promise broke; then fewer and fewer faults are tried, until the smallest plan that still
    breaks it is found, and saved.

    \b
    Examples:
      isoplug chaos --list
      isoplug chaos --plugins plugins --workspace journal
      isoplug chaos --plugins plugins --workspace journal --faults kill,stop --duration 2m --report out.html
      isoplug chaos --plugins plugins --workspace journal --seed 7 --calls 2000
      isoplug chaos --plugins plugins --command 'diaryx.words:count={"path": "a.md"}' --command EVENT:file_saved
    """
    if is_list:
        _show_faults(as_json)
        return
    if plugins is None:
        raise click.UsageError("no plugins: give --plugins DIR")
    if plan is not None and faults is not None:
        raise click.UsageError("give --plan FILE or --faults NAMES, not both")
    if faults is not None and not faults.strip():
        raise click.UsageError("--faults names none: give names, such as kill,oom, or leave it out for all; see --list")
    if duration is not None and calls is not None:
        raise click.UsageError("give --duration TIME or --calls N, not both")
    seconds = 30.0 if duration is None else duration
    callers = callers or _one_a_plugin(plugins, operations)
    choice = _Choice(plugins, workspace, plan, faults, seed, seconds, calls, callers, timeout, operations, report)
    _run(choice, is_shrunk=not no_shrink, as_json=as_json)


def _one_a_plugin(plugins: Path, operations: tuple[str, ...]) -> int:
    named = {plugin for plugin, _, _ in (text.partition(":") for text in operations) if plugin != "EVENT"}
    return max(1, min(_MOST_CALLERS, len(named or list(plugins.glob("*/plugin.wasm")))))


def _run(choice: _Choice, *, is_shrunk: bool, as_json: bool) -> None:
    from isoplug.supervisor.chaos.run import run
    from isoplug.supervisor.chaos.shrink import shrink
    from isoplug.supervisor.cli.exits import FAILED
    from isoplug.supervisor.cli.progress import progress_bar

    settings = choice.settings()
    seed = settings.plan.seed
    saved_at = _place_for_plan(choice, seed)
    if choice.report is not None:
        require_writable(choice.report, "--report")
    click.echo(f"isoplug: on copies of plugins and workspace, with seed {seed}", err=True)
    with put_away_when_stopped(has_result=choice.report is not None), progress_bar(is_wanted=not as_json) as show:

        def on_progress(progress: Progress) -> None:
            show(progress.phase, progress.share, _counts(progress))

        stopped: list[Report] = []
        try:
            report = run(settings, on_progress=on_progress, on_stopped=stopped.append)
            if report.broken and is_shrunk:
                stopped.append(report)
                report = shrink(settings, report, on_progress=on_progress)
        except SystemExit:
            _tell_of_stopped(stopped, choice, seed)
            raise
    report = replace(report, repeat=choice.command(seed, len(report.calls)))
    if report.smallest is not None:
        write_output(saved_at, report.smallest.to_toml().encode())
    _show(report, choice, saved_at, as_json)
    if report.broken:
        sys.exit(FAILED)


def _counts(progress: Progress) -> str:
    return (
        f"{progress.calls} calls, {progress.injected} faults: {progress.failed} failed, {progress.wrong} wrong, "
        f"{progress.late} late"
    )


def _show(report: Report, choice: _Choice, saved_at: Path, as_json: bool) -> None:
    """On stdout the result, on stderr which files were written."""
    from isoplug.supervisor.chaos.as_json import to_json
    from isoplug.supervisor.cli import show

    if as_json:
        print_json(to_json(report), indent=None)
    else:
        show.chaos_report(report)
        click.echo(f"The same again: {report.repeat}")
    _explain_duration(report, choice)
    if report.smallest is not None:
        again = choice.command(report.smallest.seed, report.smallest_calls or len(report.calls), saved_at)
        if not as_json:
            click.echo(f"\nThe smallest plan that still breaks the first promise:\n\n{report.smallest.to_toml()}")
            click.echo(f"With it: {again}")
        click.echo(f"isoplug: the smallest plan is in {saved_at}", err=True)
    _write_page(report, choice)


def _write_page(report: Report, choice: _Choice) -> None:
    """If one is wanted. Raises SetupError."""
    from isoplug.supervisor.chaos.html import to_html

    if choice.report is not None:
        write_output(choice.report, to_html(report).encode())
        what = "page, of what was done until then," if report.is_stopped else "page"
        click.echo(f"isoplug: the {what} is {choice.report}", err=True)


def _tell_of_stopped(reports: list[Report], choice: _Choice, seed: int) -> None:
    """The page of the one that there is, or that there is none."""
    for report in reports:
        _write_page(replace(report, repeat=choice.command(seed, len(report.calls)), is_stopped=True), choice)
    if choice.report is not None and not reports:
        click.echo("isoplug: there is no page: not one round was whole by then", err=True)


def _explain_duration(report: Report, choice: _Choice) -> None:
    """What has begun is finished: steps up to the next rest of all callers, and the comparison."""
    slowest = max(report.calls, key=lambda call: call.took_seconds, default=None)
    if choice.calls is not None or slowest is None or slowest.took_seconds < choice.duration / _MUCH_LONGER:
        return
    if report.seconds > choice.duration * _MUCH_LONGER:
        click.echo(
            f"isoplug: it took {report.seconds:.0f} s, not {choice.duration:g} s: what has begun is finished, and made "
            f"again to compare. The slowest call took {slowest.took_seconds:.1f} s ({slowest.what}); --timeout 1s "
            "bounds calls, --command leaves out slow ones",
            err=True,
        )


def _show_faults(as_json: bool) -> None:
    from isoplug.supervisor.chaos.faults import HostCallFault, fault_named, fault_names
    from isoplug.supervisor.cli import show

    faults = [fault_named(name) for name in fault_names()]
    if not as_json:
        show.chaos_faults(faults)
        return
    listed = [
        {
            "name": fault.name,
            "imitates": fault.imitates(),
            "strikes": "host call" if isinstance(fault, HostCallFault) else "call",
            "parameters": fault.defaults(),
        }
        for fault in faults
    ]
    print_json({"faults": listed})


def _place_for_plan(choice: _Choice, seed: int) -> Path:
    """Beside the page, or in the current folder. What is there and is no plan, or is the plan of this run, stays: then
    the name gets a number. Raises SetupError when nothing can be written there."""
    name = f"isoplug-chaos-{seed}" if choice.report is None else f"{choice.report.stem}.smallest"
    folder = Path() if choice.report is None else choice.report.parent
    place = next(path for path in _numbered(folder, name) if _is_free(path, choice.plan))
    require_writable(place, "the current folder" if choice.report is None else "--report")
    return place


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    number = 1
    while True:
        yield folder / (f"{name}.toml" if number == 1 else f"{name}-{number}.toml")
        number += 1


def _is_free(path: Path, plan: Path | None) -> bool:
    from isoplug.shared.errors import SetupError
    from isoplug.supervisor.chaos import Plan

    if not path.exists() and not path.is_symlink():
        return True
    if plan is not None and plan.exists() and path.exists() and path.samefile(plan):
        return False
    with suppress(SetupError):
        return bool(Plan.load(path).rules)
    return False
