"""Tables for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isoplug.supervisor.observe.status import PluginStatus
from isoplug.supervisor.plugins.manifest import Manifest

__all__ = ["manifest", "status_table"]

_UNBOUNDED_COLUMNS = 10_000
_STATE_STYLES = {"ready": "green", "busy": "cyan", "quarantined": "red", "backing_off": "yellow"}


def status_table(statuses: Sequence[PluginStatus], console: Console | None = None) -> None:
    """One row a plugin, then why workers were lost, to stdout."""
    console = console or _stdout()
    if not statuses:
        console.print("no plugins")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)  # so that a row fits into 80 columns
    table.add_column("plugin", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("pid", "calls", "failed", "restarts", "memory", "cpu"):
        table.add_column(heading, justify="right", no_wrap=True)
    for status in statuses:
        table.add_row(
            _plain(f"{status.id} {status.version}"),
            Text(status.state, style=_STATE_STYLES.get(status.state, "")),
            " ".join(map(str, status.worker_pids)) or "-",
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


def _stdout() -> Console:
    """As wide as the terminal; for programs such as ``grep``, wide enough to keep a row on its line."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNBOUNDED_COLUMNS)


def _plain(text: str) -> Text:
    """Guests write these: no markup, no control characters."""
    return Text("".join(character if character.isprintable() else "\ufffd" for character in text))
