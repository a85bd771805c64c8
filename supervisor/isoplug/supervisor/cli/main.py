"""The group of all commands. Each lives in the module that the table names, and is imported when it is asked for, so
that none waits for what another one needs."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

import click

from isoplug.shared.version import VERSION

__all__ = ["main"]

_HERE = "isoplug.supervisor.cli"

#: name → module and attribute.
_COMMANDS = {
    "bench": (f"{_HERE}.bench", "bench"),
    "call": (f"{_HERE}.plugins", "call"),
    "chaos": (f"{_HERE}.chaos", "chaos"),
    "crashes": (f"{_HERE}.crashes", "crashes"),
    "demo": (f"{_HERE}.plugins", "demo"),
    "doctor": (f"{_HERE}.doctor", "doctor"),
    "drain": (f"{_HERE}.service", "drain"),
    "event": (f"{_HERE}.plugins", "event"),
    "inspect": (f"{_HERE}.plugins", "inspect"),
    "list": (f"{_HERE}.plugins", "list_plugins"),
    "poisoned": (f"{_HERE}.service", "poisoned"),
    "reload": (f"{_HERE}.service", "reload"),
    "replay": (f"{_HERE}.crashes", "replay"),
    "reset": (f"{_HERE}.service", "reset"),
    "run": (f"{_HERE}.service", "run"),
    "sign": (f"{_HERE}.signing", "sign"),
    "status": (f"{_HERE}.service", "status"),
    "verify": (f"{_HERE}.signing", "verify"),
}


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


class _Commands(click.Group):
    """Of its ``commands`` click itself needs the names, to list them and to guess the one that was meant; what stands
    for each is empty."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(
    cls=_Commands,
    commands={name: click.Command(name) for name in _COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 the command failed, 2 usage, 3 permission denied, 4 timeout, 5 worker crashed or "
    "quarantined, 6 load failure.",
)
@click.version_option(VERSION, prog_name="isoplug")
def cli() -> None:
    """Run other people's WebAssembly plugins, each in a process of its own.

    \b
    Examples:
      isoplug demo
      isoplug doctor
      isoplug bench --short
      isoplug chaos --plugins plugins --workspace journal --report out.html
      isoplug inspect plugins/words/plugin.wasm
      isoplug verify plugins/words/plugin.wasm --key author.pub
      isoplug list --plugins plugins --workspace journal
      isoplug call diaryx.words count --plugins plugins --workspace journal
      isoplug call diaryx.daily today --params '{"text": "Rain."}' --config isoplug.toml
      isoplug event file_saved --payload '{"path": "a.md"}' --config isoplug.toml
      isoplug run --config isoplug.toml
      isoplug status --watch --config isoplug.toml
      isoplug crashes --config isoplug.toml
    """
