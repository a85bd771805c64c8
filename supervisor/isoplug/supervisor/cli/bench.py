"""``isoplug bench``."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isoplug.supervisor.cli.options import print_json, reporting
from isoplug.supervisor.cli.outputs import require_writable, write_output
from isoplug.supervisor.cli.progress import progress_bar
from isoplug.supervisor.cli.stopping import put_away_when_stopped

if TYPE_CHECKING:
    from isoplug.supervisor.bench.report import Report

__all__ = ["bench"]

#: Of a report that is read again: a full one has some thirty kilobytes.
_MAX_REPORT_BYTES = 16 << 20


@click.command()
@click.option(
    "--only", multiple=True, metavar="NAMES", help="These sections: calls,storage; may be repeated. Default: all."
)
@click.option("--short", is_flag=True, help="Measure less, for a minute or two; what is far off, again.")
@click.option("--blocks", type=click.IntRange(1, 10_000), metavar="N", help="Turns of each candidate: 30, --short 6.")
@click.option("--json", "json_to", metavar="FILE", help="Write the report as JSON; - is stdout, in place of the table.")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the report, as .svg or .png; may be repeated.",
)
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Show or draw this JSON; measure nothing."
)
@click.option("--strict", is_flag=True, help="Fail when a goal is missed at all, not only by twice.")
@click.option("--list", "is_list", is_flag=True, help="Show the sections there are.")
@functools.partial(reporting, quiet="CRITICAL")  # workers that are killed here are meant to be
def bench(
    only: tuple[str, ...],
    short: bool,
    blocks: int | None,
    json_to: str | None,
    pictures: tuple[Path, ...],
    source: Path | None,
    strict: bool,
    is_list: bool,
) -> None:
    """Measure what isolation costs on this machine, side by side with what one could do without isoplug.

    All candidates take turns in one run, so quote the ratios rather than the times, and leave the machine alone
    meanwhile. Exit code 1 when a figure is worse than twice its goal; with --strict, when it is worse than its goal.

    \b
    Examples:
      isoplug bench
      isoplug bench --short
      isoplug bench --only calls,recovery --blocks 100
      isoplug bench --json bench.json --picture bench.svg
      isoplug bench --from bench.json --picture bench.png
    """
    if is_list:
        _list_sections()
        return
    if source is not None and (only or short or blocks):
        raise click.UsageError("--from measures nothing: leave out --only, --short and --blocks")
    names = [name.strip() for name in ",".join(only).split(",") if name.strip()] if only else None
    if names == []:
        raise click.UsageError("--only names none: give names, such as calls,storage, or leave it out; see --list")
    for path in pictures:
        _check_picture(path)
    if json_to not in (None, "-"):
        require_writable(Path(json_to), "--json")
    with put_away_when_stopped():
        report = _measured(names, short, blocks) if source is None else _read(source)
    _write(report, json_to, pictures)
    sys.exit(_exit_code(report, strict))


def _list_sections() -> None:
    from isoplug.supervisor.bench.sections import SECTIONS

    for section in SECTIONS:
        click.echo(f"{section.name:<12} {section.what}")


def _check_picture(path: Path) -> None:
    from isoplug.supervisor.bench.picture import FORMATS, require_matplotlib

    if path.suffix.removeprefix(".") not in FORMATS:
        raise click.UsageError(f"--picture {path}: name a file that ends in .svg or .png")
    require_matplotlib()
    require_writable(path, "--picture")


def _measured(names: list[str] | None, short: bool, blocks: int | None) -> Report:
    from isoplug.supervisor.bench.lab import FULL, SHORT
    from isoplug.supervisor.bench.run import Settings, run, sections_named
    from isoplug.supervisor.bench.sections import SECTIONS

    sections = SECTIONS if names is None else sections_named(names)
    pace = SHORT if short else FULL
    settings = Settings(sections, pace if blocks is None else replace(pace, blocks=blocks))
    with progress_bar(is_wanted=True) as show:
        return run(settings, lambda section, share: show(section, share, ""))


def _read(path: Path) -> Report:
    from isoplug.shared.errors import SetupError
    from isoplug.supervisor.bench.report import Report
    from isoplug.supervisor.files import read_bounded, reason

    try:
        return Report.from_json(json.loads(read_bounded(path, _MAX_REPORT_BYTES)))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{path} is no report of isoplug bench: {error}") from error


def _write(report: Report, json_to: str | None, pictures: tuple[Path, ...]) -> None:
    """On stdout the result, on stderr which files were written. A file that cannot be written costs neither another one
    nor the table, which took minutes to measure. Raises SetupError, at the end."""
    from isoplug.shared.errors import SetupError
    from isoplug.supervisor.bench.picture import draw
    from isoplug.supervisor.cli import show

    if json_to == "-":
        print_json(report.to_json())
    else:
        show.bench_report(report)
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    files = {} if json_to in (None, "-") else {Path(json_to): text.encode}
    files |= {path: functools.partial(draw, report, path.suffix.removeprefix(".")) for path in pictures}
    failures = []
    for path, content in files.items():
        try:
            write_output(path, content())
            click.echo(f"isoplug: wrote {path}", err=True)
        except SetupError as error:
            failures.append(str(error))
    if failures:
        raise SetupError("\n  ".join(failures))


def _exit_code(report: Report, strict: bool) -> int:
    from isoplug.supervisor.cli.exits import FAILED

    if strict:
        return FAILED if any(verdict.is_met is False for verdict in report.verdicts) else 0
    return FAILED if any(verdict.is_far_off for verdict in report.verdicts) else 0
