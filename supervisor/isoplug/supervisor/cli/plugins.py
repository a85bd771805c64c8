"""``isoplug inspect | list | call | event | demo``: a look at one module, and calls of plugins loaded for them."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isoplug.supervisor.cli.options import (
    Choice,
    choosing,
    config_option,
    fail,
    json_option,
    keys_and_paths,
    parsed,
    parsed_object,
    print_json,
    recorded,
    reporting,
)

if TYPE_CHECKING:
    from isoplug.supervisor.supervisor import Supervisor

__all__ = ["call", "demo", "event", "inspect", "list_plugins"]


@click.command()
@click.argument("wasm", type=click.Path(path_type=Path))
@config_option
@json_option
@reporting
def inspect(wasm: Path, config: Path | None, as_json: bool) -> None:
    """Show the manifest of a plugin.wasm. It gets no permissions and no workspace.

    With --config, its limits, pins and trusted keys count.

    \b
    Example: isoplug inspect plugins/words/plugin.wasm --json
    """
    from isoplug.shared.errors import PluginError, SetupError
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import LOAD_FAILED
    from isoplug.supervisor.config import load_config
    from isoplug.supervisor.inspection import inspect as inspect_module

    settings = None if config is None else load_config(config)
    try:
        manifest = inspect_module(wasm, config=settings)
    except SetupError:
        raise
    except PluginError as error:  # a trap or timeout while it loads is a load failure like any other
        fail(error, LOAD_FAILED)
    if as_json:
        print_json(manifest.to_json_object())
    else:
        show.manifest(manifest)


@click.command("list")
@json_option
@reporting
@choosing
def list_plugins(choice: Choice, as_json: bool) -> None:
    """Load all plugins and show how they are. Exit code 6 when one could not be loaded.

    \b
    Example: isoplug list --plugins plugins --workspace journal
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import LOAD_FAILED

    with choice.supervisor() as supervisor:
        statuses, load_errors = list(supervisor.status().values()), supervisor.load_errors
        if as_json:
            errors = {name: {"code": error.code, "message": str(error)} for name, error in load_errors.items()}
            print_json({"plugins": [status.to_json() for status in statuses], "load_errors": errors})
        else:
            show.status_table(statuses)
    if load_errors:
        sys.exit(LOAD_FAILED)


@click.command()
@click.argument("plugin")
@click.argument("command")
@click.option("--params", default="null", callback=parsed, metavar="JSON", help="Parameters of the command.")
@click.option(
    "--file",
    "files",
    multiple=True,
    callback=keys_and_paths,
    metavar="KEY=PATH",
    help="Offer a file to the plugin; may be repeated.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of the call and all it causes.")
@click.option("--retries", type=int, default=0, help="Repeat it so often while that cannot repeat an effect.")
@click.option("--strict", is_flag=True, help="Fail with 3 when a rule refused anything at all.")
@click.option("--attach", is_flag=True, help="Let the running service make the call; it need not load the plugins.")
@json_option
@reporting
@choosing
@recorded
def call(
    choice: Choice,
    plugin: str,
    command: str,
    params: Any,
    files: dict[str, Path],
    timeout: float | None,
    retries: int,
    strict: bool,
    attach: bool,
    as_json: bool,
) -> None:
    """Run COMMAND of PLUGIN and print its result. It is JSON, on one line with --json.

    \b
    Examples:
      isoplug call diaryx.words count --plugins plugins --workspace journal
      isoplug call diaryx.import run --file archive=old.zip --config isoplug.toml
      isoplug call --attach diaryx.words count --config isoplug.toml
    """
    options: dict[str, Any] = {"timeout": timeout, "retries": retries, "strict": strict}
    if attach:
        from isoplug.supervisor.cli.service import attached_call

        if choice.is_recorded:
            raise click.UsageError("--record is for calls made here; start the service with it, or set [record]")
        result = attached_call(choice, plugin, command, params, files, options)
    else:
        with choice.supervisor() as supervisor:
            _require_loaded(supervisor, plugin)
            result = supervisor.command(plugin, command, params, files=files, **options)
    print_json(result, indent=None if as_json else 2)


@click.command()
@click.argument("event_type", metavar="TYPE")
@click.option("--payload", default="{}", callback=parsed_object, metavar="JSON", help="What the event says.")
@json_option
@reporting
@choosing
@recorded
def event(choice: Choice, event_type: str, payload: dict[str, Any], as_json: bool) -> None:
    """Send an event to the plugins that listen. Wait until they have handled it, print how many got it.

    \b
    Example: isoplug event file_saved --payload '{"path": "a.md"}' --config isoplug.toml
    """
    from isoplug.supervisor.cli.exits import TIMED_OUT

    with choice.supervisor() as supervisor:
        receivers = supervisor.emit(event_type, payload)
        # Each wait ends with the default timeout, as does each handler: after two of them even a spinning one is over.
        are_handled = supervisor.flush_events() or supervisor.flush_events()
    if not are_handled:
        click.secho("isoplug: call_timeout: not every plugin handled the event in time", fg="red", err=True)
        sys.exit(TIMED_OUT)
    if as_json:
        print_json({"receivers": receivers})
    else:
        click.echo(f"{event_type}: delivered to {receivers} plugin{'' if receivers == 1 else 's'}")


@click.command()
@functools.partial(reporting, quiet="CRITICAL")  # its crash is meant, and shown
def demo() -> None:
    """Show everything on a sample journal. It takes seconds: commands, a denial, a crash, a recursion."""
    from isoplug.supervisor.demo import run

    run()


def _require_loaded(supervisor: Supervisor, plugin: str) -> None:
    """A plugin that failed to load is a load failure, whatever it failed of, and not an unknown name."""
    from isoplug.shared.errors import PluginNotFound
    from isoplug.supervisor.cli.exits import LOAD_FAILED

    if plugin in supervisor.plugins:
        return
    for folder, error in supervisor.load_errors.items():
        if plugin in (folder, error.plugin_id):
            fail(error, LOAD_FAILED)
    raise PluginNotFound(plugin, tuple(supervisor.plugins), tuple(supervisor.load_errors))
