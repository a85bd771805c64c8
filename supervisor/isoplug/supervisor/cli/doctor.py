"""``isoplug doctor``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click

from isoplug.supervisor.cli.options import config_option, json_option, print_json, reporting

__all__ = ["doctor"]


@click.command()
@config_option
@json_option
@functools.partial(reporting, quiet="CRITICAL")  # what goes wrong stands in the report
def doctor(config: Path | None, as_json: bool) -> None:
    """Show what confines a plugin's process on this machine, and what to do about each gap. Nothing is changed.

    It tries each layer of the lock-down by itself, starts a worker as a plugin would get it, with the limits of the
    configuration, and reads in /proc what it has. Exit code 1 when lockdown = "full" would refuse to start workers.

    \b
    Examples:
      isoplug doctor
      isoplug doctor --config isoplug.toml
      isoplug doctor --json | jq '.layers[] | select(.problem)'

    Run it as the user, and in the container, that the plugins will run in: both decide which layers there are.
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import FAILED
    from isoplug.supervisor.config import Config, load_config
    from isoplug.supervisor.doctor import examine

    report = examine(Config() if config is None else load_config(config))
    if as_json:
        print_json(report.to_json())
    else:
        show.doctor_report(report.to_json())
    if not report.is_full:
        sys.exit(FAILED)
