"""What the commands share: options, how they find plugins or a service, and how they say what went wrong."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from isoplug.shared.errors import PluginError
    from isoplug.supervisor.config import Config
    from isoplug.supervisor.service.client import Client
    from isoplug.supervisor.supervisor import Supervisor

__all__ = [
    "Choice",
    "choosing",
    "config_option",
    "fail",
    "json_option",
    "keys_and_paths",
    "parsed",
    "parsed_object",
    "print_json",
    "recorded",
    "reporting",
]


def reporting(command: Callable[..., None], quiet: str = "WARNING") -> Callable[..., None]:
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
            fail(error, exit_code(error))

    return click.option("-v", "--verbose", count=True, help="Log more to stderr; twice for debug.")(run)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options say about plugins and state."""

    plugins: str | None
    workspace: str | None
    state: str | None
    root_index: str | None
    config: Path | None
    is_recorded: bool = False

    def settings(self) -> Config:
        """The configuration file, read now, with the options put over it. Raises SetupError."""
        from isoplug.supervisor.config import Config, configured, load_config

        config = load_config(self.config) if self.config is not None else Config()
        return configured(
            config,
            plugins_dir=self.plugins,
            workspace=self.workspace,
            state_dir=self.state,
            root_index=self.root_index,
            record={**dict(config.record), "enabled": True} if self.is_recorded else None,
        )

    def state_folder(self) -> Path:
        """Where the state is, whether it is there or not. Raises SetupError."""
        from isoplug.shared.errors import SetupError
        from isoplug.supervisor.files import reason
        from isoplug.supervisor.state import place_of_state

        settings = self.settings()
        try:
            return place_of_state(settings.workspace, settings.plugins_dir, settings.state_dir)
        except (OSError, ValueError, RuntimeError) as error:
            raise SetupError(
                f"no state folder: {reason(error)}; give the --config, --workspace or --state of the supervisor"
            ) from error

    def settings_with_plugins(self) -> Config:
        settings = self.settings()
        if settings.plugins_dir is None:
            raise _no_plugins()
        return settings

    @contextmanager
    def supervisor(self) -> Iterator[Supervisor]:
        """With all plugins loaded. Raises SetupError."""
        if self.plugins is None and self.config is None:
            raise _no_plugins()
        with ExitStack() as closing:
            with _no_garbage():
                from isoplug.supervisor.head_start import HeadStart

                head_start = closing.enter_context(HeadStart())  # it boots while this goes on importing
                from isoplug.supervisor.cli.loading import loading_bar
                from isoplug.supervisor.supervisor import Supervisor

            with loading_bar() as on_progress:
                supervisor = Supervisor(
                    config=self.settings_with_plugins(), on_progress=on_progress, head_start=head_start
                )
            yield closing.enter_context(supervisor)

    def client(self) -> AbstractContextManager[Client]:
        """Of the service that was started with the same options. Raises SetupError, NotRunning, PermissionDenied."""
        from isoplug.supervisor.service.client import folder_of, open_client

        return open_client(folder_of(self.settings()))


def _no_plugins() -> click.UsageError:
    return click.UsageError("no plugins: give --plugins DIR, or a --config FILE with plugins_dir")


@contextmanager
def _no_garbage() -> Iterator[None]:
    """For imports, which leave none: looking for it is a tenth of the time that they take, and would be later, too."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


config_option = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration (TOML).")


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that needs plugins, or the service that has them; the command gets a Choice."""

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
        command(Choice(plugins, workspace, state, root_index, config), *args, **kwargs)

    options = (
        click.option("--plugins", type=click.Path(), metavar="DIR", help="Folder with a folder per plugin."),
        click.option("--workspace", type=click.Path(), metavar="DIR", help="Folder that plugins see."),
        click.option("--state", type=click.Path(), metavar="DIR", help="Folder for storage, secrets, namespaces."),
        click.option("--root-index", metavar="FILE", help="The file, in the workspace, that grants permissions."),
        config_option,
    )
    for option in reversed(options):
        run = option(run)
    return run


def recorded(command: Callable[..., None]) -> Callable[..., None]:
    """Below ``choosing``: the option ``--record`` of commands that make calls."""

    @functools.wraps(command)
    def run(choice: Choice, *args: Any, is_recorded: bool, **kwargs: Any) -> None:
        command(replace(choice, is_recorded=is_recorded), *args, **kwargs)

    return click.option("--record", "is_recorded", is_flag=True, help="Record the calls, for isoplug replay.")(run)


def parsed(_context: click.Context, option: click.Parameter, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option.opts[0]} is not JSON: {error}") from error


def parsed_object(context: click.Context, option: click.Parameter, text: str) -> dict[str, Any]:
    value = parsed(context, option, text)
    if not isinstance(value, dict):
        raise click.UsageError(f'{option.opts[0]} must be a JSON object, such as \'{{"path": "a.md"}}\'')
    return value


def keys_and_paths(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
    files = {}
    for text in texts:
        key, separator, path = text.partition("=")
        if not separator or not key or not path:
            raise click.UsageError(f"--file takes key=path, not {text!r}")
        files[key] = Path(path)
    return files


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def fail(error: PluginError, exit_code: int, code: str | None = None) -> NoReturn:
    """``code`` replaces the error's own word."""
    click.secho(f"isoplug: {code or error.code}: {printable(str(error))}", fg="red", err=True)
    sys.exit(exit_code)


def print_json(value: Any, indent: int | None = 2) -> None:
    """On stdout. A guest may have written its texts: what is not printable (C1 controls, which move a terminal's
    cursor) or not in stdout's encoding is escaped. JSON readers see the same value."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")  # the shell may have closed it
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    click.echo(text)


def printable(text: str) -> str:
    """A guest may have written this: no control characters, or it could rewrite the terminal; further lines are
    indented, so that none looks like one of ours."""
    shown = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
    return shown.replace("\n", "\n    ")
