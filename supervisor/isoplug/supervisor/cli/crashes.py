"""``isoplug crashes``, ``isoplug crashes show`` and ``isoplug replay``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace as replaced
from pathlib import Path

import click

from isoplug.supervisor.cli.options import (
    Choice,
    choosing,
    config_option,
    json_option,
    print_json,
    reporting,
)

__all__ = ["crashes", "replay"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--module", type=click.Path(path_type=Path), metavar="WASM", help="Run this one, not the recorded one.")
@config_option
@json_option
@reporting
def replay(file: Path, module: Path | None, config: Path | None, as_json: bool) -> None:
    """Run the recorded call in FILE again in a fresh worker, answered from the recording; no service is touched.

    It says whether the result is the same, from which host call on it went another way, or whether it crashed again
    with the same signature. Exit code 0 when it was the same (the same crash, too), 1 when not, 2 when FILE cannot be
    replayed. A FILE of somebody else's is parsed within bounds; its module runs as confined as any plugin.

    \b
    Examples:
      isoplug call diaryx.words count --record --plugins plugins --workspace journal
      isoplug replay ~/.local/share/isoplug/journal-*/recordings/20261122T103623*.isorec
      isoplug replay crash.isorec --module mended/plugin.wasm
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import FAILED
    from isoplug.supervisor.config import load_config
    from isoplug.supervisor.replaying import replay as replay_file

    replayed = replay_file(file, module=module, config=None if config is None else load_config(config))
    if as_json:
        print_json(replayed.to_json())
    else:
        show.replayed(replayed.to_json())
    if not replayed.is_same:
        sys.exit(FAILED)


@click.group(invoke_without_command=True)
@click.pass_context
@json_option
@reporting
@choosing
def crashes(choice: Choice, context: click.Context, as_json: bool) -> None:
    """List the kinds of crashes of plugins, the latest first: id, time, what crashed, outcome, how often.

    A report is written for each kind of crash (plugin, export, cause); the latest 200 kinds are kept in the state
    folder.

    \b
    Examples:
      isoplug crashes --plugins plugins --workspace journal
      isoplug crashes show 3f9c1a2b7d4e --config isoplug.toml
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.recording import CRASHES, read_crashes

    if context.invoked_subcommand is not None:
        context.obj = choice
        return
    reports = [report.to_json() for report in read_crashes(choice.state_folder() / CRASHES)]
    if as_json:
        print_json(reports)
    else:
        show.crash_table(reports)


@crashes.command("show")
@click.argument("crash_id", metavar="ID")
@json_option
@click.pass_obj
@reporting
@choosing
def show_crash(choice: Choice, outer: Choice, crash_id: str, as_json: bool) -> None:
    """Show one kind of crash: how it ended, the trap or the evidence, effects, last host calls, log lines, recording.

    ID may be cut short. The exit code is 2 when there is no such report.

    \b
    Example: isoplug crashes show 3f9c --plugins plugins --workspace journal
    """
    from isoplug.shared.errors import InvalidArgument
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.recording import CRASHES, RECORDINGS, read_crashes

    given = {name: value for name in ("plugins", "workspace", "state", "config") if (value := getattr(choice, name))}
    state = replaced(outer, **given).state_folder()
    found = [report for report in read_crashes(state / CRASHES) if report.id.startswith(crash_id)]
    if len(found) != 1:
        known = "no crash has" if not found else f"{len(found)} crashes have ids that begin with"
        raise InvalidArgument(f"{known} {crash_id!r}; see isoplug crashes")
    report = found[0].to_json()
    for occurrence in report["occurrences"]:
        name = occurrence["recording"]
        path = None if name is None else state / RECORDINGS / Path(name).name
        is_kept = path is not None and path.exists()
        occurrence["recording"] = str(path) if is_kept else None
        occurrence["replay"] = shlex.join(["isoplug", "replay", str(path)]) if is_kept else None
    if as_json:
        print_json(report)
    else:
        show.crash(report)
