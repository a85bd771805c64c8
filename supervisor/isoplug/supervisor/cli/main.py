"""``isoplug inspect | list | call | event | demo``."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:  # what is imported here costs every ``--help`` its time, so commands import what they need
    from isoplug.shared.errors import PluginError
    from isoplug.supervisor.supervisor import Supervisor

__all__ = ["main"]


def main() -> None:
    """Entry point of the ``isoplug`` script."""
    try:
        cli(prog_name="isoplug")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise  # EPIPE is click's; anything else is a bug
        click.secho(f"isoplug: cannot write the result: {error.strerror}; free space", fg="red", err=True)
        # What is buffered has no place either: Python would try again at its end, complain and exit with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 the command failed, 2 usage, 3 permission denied, 4 timeout, 5 worker crashed or "
    "quarantined, 6 load failure.",
)
@click.version_option(version("isoplug"), prog_name="isoplug")
def cli() -> None:
    """Run other people's WebAssembly plugins, each in a process of its own.

    \b
    Examples:
      isoplug demo
      isoplug inspect plugins/words/plugin.wasm
      isoplug list --plugins plugins --workspace journal
      isoplug call diaryx.words count --plugins plugins --workspace journal
      isoplug call diaryx.daily today --params '{"text": "Rain."}' --config isoplug.toml
      isoplug event file_saved --payload '{"path": "a.md"}' --config isoplug.toml
    """


def _reporting(command: Callable[..., None], quiet: str = "WARNING") -> Callable[..., None]:
    """Typed errors become one line on stderr and their exit code; logs go there too, from the level ``quiet`` on."""

    @functools.wraps(command)
    def run(*args: Any, verbose: int, **kwargs: Any) -> None:
        from isoplug.shared.errors import PluginError
        from isoplug.supervisor.cli.exits import exit_code
        from isoplug.supervisor.observe.logs import to_stderr

        to_stderr((quiet, "INFO", "DEBUG")[min(verbose, 2)])
        try:
            command(*args, **kwargs)
        except PluginError as error:
            _fail(error, exit_code(error))

    return click.option("-v", "--verbose", count=True, help="Log more to stderr; twice for debug.")(run)


def _supervising(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that loads plugins; the command gets the supervisor."""

    @functools.wraps(command)
    def run(
        *args: Any,
        plugins: str | None,
        workspace: str | None,
        state: str | None,
        root_index: str | None,
        config: Path | None,
        **kwargs: Any,
    ) -> None:
        from isoplug.supervisor.config import Config, load_config
        from isoplug.supervisor.supervisor import Supervisor

        settings = load_config(config) if config is not None else Config()
        if plugins is None and settings.plugins_dir is None:
            raise click.UsageError("no plugins: give --plugins DIR, or a --config FILE with plugins_dir")
        with Supervisor(plugins, workspace, state_dir=state, root_index=root_index, config=settings) as supervisor:
            command(supervisor, *args, **kwargs)

    options = (
        click.option("--plugins", type=click.Path(), metavar="DIR", help="Folder with a folder per plugin."),
        click.option("--workspace", type=click.Path(), metavar="DIR", help="Folder that plugins see."),
        click.option("--state", type=click.Path(), metavar="DIR", help="Folder for storage, secrets, namespaces."),
        click.option("--root-index", metavar="FILE", help="The file, in the workspace, that grants permissions."),
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration (TOML)."),
    )
    for option in reversed(options):
        run = option(run)
    return run


def _parsed(_context: click.Context, option: click.Parameter, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option.opts[0]} is not JSON: {error}") from error


def _parsed_object(context: click.Context, option: click.Parameter, text: str) -> dict[str, Any]:
    value = _parsed(context, option, text)
    if not isinstance(value, dict):
        raise click.UsageError(f'{option.opts[0]} must be a JSON object, such as \'{{"path": "a.md"}}\'')
    return value


def _keys_and_paths(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
    files = {}
    for text in texts:
        key, separator, path = text.partition("=")
        if not separator or not key or not path:
            raise click.UsageError(f"--file takes key=path, not {text!r}")
        files[key] = Path(path)
    return files


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@cli.command()
@click.argument("wasm", type=click.Path(path_type=Path))
@_as_json
@_reporting
def inspect(wasm: Path, as_json: bool) -> None:
    """Show the manifest of a plugin.wasm. It gets no permissions and no workspace.

    \b
    Example: isoplug inspect plugins/words/plugin.wasm --json
    """
    from isoplug.shared.errors import PluginError, SetupError
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import LOAD_FAILED
    from isoplug.supervisor.inspection import inspect as inspect_module

    try:
        manifest = inspect_module(wasm)
    except SetupError:
        raise
    except PluginError as error:  # a trap or timeout while it loads is a load failure like any other
        _fail(error, LOAD_FAILED)
    if as_json:
        _print_json(manifest.to_json_object())
    else:
        show.manifest(manifest)


@cli.command("list")
@_as_json
@_reporting
@_supervising
def list_plugins(supervisor: Supervisor, as_json: bool) -> None:
    """Load all plugins and show how they are. Exit code 6 when one could not be loaded.

    \b
    Example: isoplug list --plugins plugins --workspace journal
    """
    from isoplug.supervisor.cli import show
    from isoplug.supervisor.cli.exits import LOAD_FAILED

    statuses = list(supervisor.status().values())
    if as_json:
        errors = {name: {"code": error.code, "message": str(error)} for name, error in supervisor.load_errors.items()}
        _print_json({"plugins": [status.to_json() for status in statuses], "load_errors": errors})
    else:
        show.status_table(statuses)
    if supervisor.load_errors:
        sys.exit(LOAD_FAILED)


@cli.command()
@click.argument("plugin")
@click.argument("command")
@click.option("--params", default="null", callback=_parsed, metavar="JSON", help="Parameters of the command.")
@click.option(
    "--file",
    "files",
    multiple=True,
    callback=_keys_and_paths,
    metavar="KEY=PATH",
    help="Offer a file to the plugin; may be repeated.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of the call and all it causes.")
@_as_json
@_reporting
@_supervising
def call(
    supervisor: Supervisor,
    plugin: str,
    command: str,
    params: Any,
    files: dict[str, Path],
    timeout: float | None,
    as_json: bool,
) -> None:
    """Run COMMAND of PLUGIN and print its result. It is JSON, on one line with --json.

    \b
    Examples:
      isoplug call diaryx.words count --plugins plugins --workspace journal
      isoplug call diaryx.import run --file archive=old.zip --config isoplug.toml
    """
    _require_loaded(supervisor, plugin)
    result = supervisor.command(plugin, command, params, timeout=timeout, files=files)
    _print_json(result, indent=None if as_json else 2)


@cli.command()
@click.argument("event_type", metavar="TYPE")
@click.option("--payload", default="{}", callback=_parsed_object, metavar="JSON", help="What the event says.")
@_as_json
@_reporting
@_supervising
def event(supervisor: Supervisor, event_type: str, payload: dict[str, Any], as_json: bool) -> None:
    """Send an event to the plugins that listen. Wait until they have handled it, print how many got it.

    \b
    Example: isoplug event file_saved --payload '{"path": "a.md"}' --config isoplug.toml
    """
    from isoplug.supervisor.cli.exits import TIMED_OUT

    receivers = supervisor.emit(event_type, payload)
    # Each wait ends with the default timeout, as does each handler: after two of them even a spinning one is over.
    if not (supervisor.flush_events() or supervisor.flush_events()):
        click.secho("isoplug: call_timeout: not every plugin handled the event in time", fg="red", err=True)
        sys.exit(TIMED_OUT)
    if as_json:
        _print_json({"receivers": receivers})
    else:
        click.echo(f"{event_type}: delivered to {receivers} plugin{'' if receivers == 1 else 's'}")


@cli.command()
@functools.partial(_reporting, quiet="CRITICAL")  # its crash is meant, and shown
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
            _fail(error, LOAD_FAILED)
    raise PluginNotFound(plugin, tuple(supervisor.plugins))


def _fail(error: PluginError, code: int) -> NoReturn:
    click.secho(f"isoplug: {error.code}: {_printable(str(error))}", fg="red", err=True)
    sys.exit(code)


def _print_json(value: Any, indent: int | None = 2) -> None:
    """On stdout. A guest may have written its texts: what is not printable (C1 controls, which move a terminal's
    cursor) or not in stdout's encoding is escaped. JSON readers see the same value."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    click.echo(text)


def _printable(text: str) -> str:
    """A guest may have written this: no control characters, or it could rewrite the terminal; further lines are
    indented, so that none looks like one of ours."""
    shown = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
    return shown.replace("\n", "\n    ")
