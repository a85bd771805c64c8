"""``isoplug run``, and what is said to it from outside: status, reset, drain, reload, attached calls."""

from __future__ import annotations

import base64
import functools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from isoplug.supervisor.cli.options import Choice, choosing, fail, json_option, print_json, recorded, reporting

if TYPE_CHECKING:
    from isoplug.shared.errors import PluginNotFound
    from isoplug.supervisor.service.client import Client

__all__ = ["attached_call", "drain", "poisoned", "reload", "reset", "run", "status"]


@click.command()
@functools.partial(reporting, quiet="INFO")
@choosing
@recorded
def run(choice: Choice) -> None:
    """Run as a service, in the foreground: load all plugins, notice changes, answer status, call --attach and others.

    SIGTERM and SIGINT drain: calls in progress finish, at most calls.shutdown_timeout. A second one stops at once.
    SIGHUP reads configuration and plugins again. Exit codes: 0 drained, 1 stopped at once, 2 it could not start.

    \b
    Examples:
      isoplug run --config isoplug.toml
      isoplug run --plugins plugins --workspace journal
    """
    import asyncio

    from isoplug.supervisor.service.service import Service

    _open_standard_descriptors()

    async def serve() -> int:
        return await Service(choice.settings_with_plugins).run()

    sys.exit(asyncio.run(serve()))


@click.command()
@click.option("--watch", is_flag=True, help="Go on: redraw in a terminal, else print when something has changed.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, metavar="SECONDS", help="Between two looks.")
@json_option
@reporting
@choosing
def status(choice: Choice, watch: bool, interval: float, as_json: bool) -> None:
    """Show the running service and its plugins. With --watch --json: one line of JSON for each change.

    \b
    Examples:
      isoplug status --config isoplug.toml
      isoplug status --watch --plugins plugins --workspace journal
    """
    if not watch:
        report = _status(choice)
        if as_json:
            print_json(report)
        else:
            _show_report(report)
    else:
        with suppress(KeyboardInterrupt):  # how a person ends it
            if as_json or not sys.stdout.isatty():
                _print_changes(choice, interval, as_json)
            else:
                _redraw(choice, interval)


@click.command()
@click.argument("plugin")
@reporting
@choosing
def reset(choice: Choice, plugin: str) -> None:
    """Forget the failures of PLUGIN in the running service; a quarantined one is started again.

    \b
    Example: isoplug reset diaryx.words --config isoplug.toml
    """
    from isoplug.supervisor.service.protocol import Reset

    with choice.client() as client:
        client.ask(Reset(plugin=plugin))
    click.echo(f"{plugin}: reset")


@click.command()
@click.argument("plugin", required=False)
@click.argument("fingerprint", required=False)
@click.option("--clear", is_flag=True, help="Take them up again: all of PLUGIN, or the one with FINGERPRINT.")
@json_option
@reporting
@choosing
def poisoned(choice: Choice, plugin: str | None, fingerprint: str | None, clear: bool, as_json: bool) -> None:
    """Show the inputs that have killed a worker twice and are set aside by the running service, or take them up again.

    \b
    Examples:
      isoplug poisoned --config isoplug.toml
      isoplug poisoned diaryx.words --clear --config isoplug.toml
    """
    from isoplug.shared.errors import InvalidArgument
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.service.protocol import ClearPoisoned, ListPoisoned

    if clear and plugin is None:
        raise click.UsageError("--clear needs a PLUGIN")
    if fingerprint is not None and not clear:
        raise click.UsageError("a FINGERPRINT is for --clear")
    with choice.client() as client:
        if clear and plugin is not None:
            cleared = client.ask(ClearPoisoned(plugin=plugin, fingerprint=fingerprint))["cleared"]
            if fingerprint is not None and not cleared:
                raise InvalidArgument(f"no input of {plugin} with that fingerprint is set aside; see isoplug poisoned")
            click.echo(f"{plugin}: {cleared} taken up again")
            return
        inputs = client.ask(ListPoisoned(plugin=plugin))["inputs"]
    if as_json:
        print_json(inputs)
    else:
        show.poisoned_inputs(inputs)


@click.command()
@reporting
@choosing
def drain(choice: Choice) -> None:
    """End the running service: no new calls, those in progress finish. Return when everything has ended.

    \b
    Example: isoplug drain --config isoplug.toml
    """
    from isoplug.supervisor.service.protocol import Drain

    with choice.client() as client:
        client.ask(Drain())
    click.echo("drained")


@click.command()
@json_option
@reporting
@choosing
def reload(choice: Choice, as_json: bool) -> None:
    """Let the running service read its configuration and its plugins again. Exit code 6 when a plugin was refused.

    A configuration that cannot be used changes nothing. Of one that can, what needs a restart is named.

    \b
    Example: isoplug reload --config isoplug.toml
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import LOAD_FAILED
    from isoplug.supervisor.service.protocol import Reload

    with choice.client() as client:
        report = client.ask(Reload())
    if as_json:
        print_json(report)
    else:
        show.reload_report(report)
    if report["refused"]:
        sys.exit(LOAD_FAILED)


def attached_call(
    choice: Choice, plugin: str, command: str, params: Any, files: dict[str, Path], options: dict[str, Any]
) -> Any:
    """The result of a call that the service makes; an interrupt cancels it there. ``options``: timeout, retries,
    strict. Raises as a call here would."""
    from isoplug.shared.errors import PluginNotFound
    from isoplug.supervisor.service.protocol import Call

    offered = {key: _read(key, path) for key, path in files.items()}
    with choice.client() as client:
        try:
            request = Call(plugin=plugin, command=command, params=params, files=offered, **options)
            return client.ask(request)["data"]
        except PluginNotFound as error:
            _fail_of_load_error(client, error)


def _fail_of_load_error(client: Client, absent: PluginNotFound) -> NoReturn:
    """As for a call here: a plugin that failed to load is a load failure, and not an unknown name."""
    from isoplug.shared.errors import LoadError, PluginNotFound
    from isoplug.supervisor.cli.exits import LOAD_FAILED
    from isoplug.supervisor.service.protocol import Status

    report = client.ask(Status())
    for folder, error in report["load_errors"].items():
        if absent.plugin_id in (folder, error["plugin_id"]):
            fail(LoadError(error["message"]), LOAD_FAILED, error["code"])
    known = tuple(plugin["id"] for plugin in report["plugins"])
    raise PluginNotFound(absent.plugin_id or "", known, tuple(report["load_errors"])) from absent


def _read(key: str, path: Path) -> str:
    from isoplug.shared.errors import InvalidArgument
    from isoplug.supervisor.files import read_bounded, reason
    from isoplug.supervisor.service.protocol import MAX_LINE_BYTES

    try:
        return base64.b64encode(read_bounded(path, MAX_LINE_BYTES)).decode()
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the file offered as {key!r} cannot be read: {reason(error)}") from error


def _status(choice: Choice) -> dict[str, Any]:
    from isoplug.supervisor.service.protocol import Status

    with choice.client() as client:
        return client.ask(Status())


def _show_report(report: dict[str, Any]) -> None:
    from isoplug.supervisor.cli import show

    show.service_report(report)


def _print_changes(choice: Choice, interval: float, as_json: bool) -> None:
    """Until the service has ended, which raises NotRunning."""
    last = None
    for report in _reports(choice, interval):
        facts = _lasting(report)
        if facts != last:
            print_json(report, indent=None) if as_json else _show_report(report)
            sys.stdout.flush()
        last = facts


def _reports(choice: Choice, interval: float) -> Iterator[dict[str, Any]]:
    """One each ``interval`` seconds until the service has ended, which raises NotRunning."""
    from isoplug.shared.errors import SupervisorClosed

    while True:
        with suppress(SupervisorClosed):  # it has drained, and ends in a moment
            yield _status(choice)
        time.sleep(interval)


def _lasting(report: dict[str, Any]) -> Any:
    """The report without what changes from second to second."""
    service = {key: value for key, value in report["service"].items() if key != "uptime_seconds"}
    plugins = [
        {key: value for key, value in plugin.items() if key not in ("rss_bytes", "cpu_seconds")}
        for plugin in report["plugins"]
    ]
    return service, plugins, report["poisoned"], report["load_errors"]


def _redraw(choice: Choice, interval: float) -> None:
    from isoplug.supervisor.cli import show

    with show.screen() as screen:
        for report in _reports(choice, interval):
            screen.draw(report)


def _open_standard_descriptors() -> None:
    """Started without stdin, stdout or stderr, the next files to be opened would get their numbers, and with them what
    is written there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
