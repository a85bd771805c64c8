"""Where a supervisor keeps its state: storage, secrets, namespaces. One private folder per workspace.

Guests reach the workspace and (through a careless host) perhaps the plugins, so state lies in neither (SPEC
section 11).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from platformdirs import user_data_path

from isoplug.shared.errors import SetupError
from isoplug.supervisor.files import reason

__all__ = ["check_out_of_reach", "place_of_state", "state_dir_for"]


def state_dir_for(workspace: Path | None, plugins_dir: Path | None, override: Path | None = None) -> Path:
    """The state folder, made and private (0700), as a path without symbolic links.

    By default ``isoplug/<name>-<hash of the resolved path>`` under the user's data directory, named after the
    workspace, or after ``plugins_dir`` when there is no workspace; one of the three has to be there. ``override`` is
    used as it is. A folder of ours that others can open is closed when it is still empty; when it is not, the error
    says how, since somebody may have looked already.

    Raises:
        SetupError: the folder lies in the workspace or in ``plugins_dir``, contains the workspace, belongs to
            another user, is open to others, or cannot be made.
    """
    try:
        folder = place_of_state(workspace, plugins_dir, override)
        _refuse_overlap(folder, workspace, plugins_dir)
        _make(folder)
        # Again, now that it exists: file identity also sees through bind mounts and file systems that ignore case.
        _refuse_overlap(folder, workspace, plugins_dir)
        _make_private(folder)
    except (OSError, ValueError, RuntimeError) as error:  # platformdirs: no HOME, and a user without an entry
        where = repr(str(override)) if override is not None else "under the user's data directory"
        raise SetupError(
            f"cannot make the state folder {where}: {reason(error)}; choose a writable place with state_dir="
        ) from error
    return folder


def place_of_state(workspace: Path | None, plugins_dir: Path | None, override: Path | None = None) -> Path:
    """Where ``state_dir_for`` would make the folder, whether it is there or not. Raises OSError, ValueError,
    RuntimeError: no path can be found out, or it cannot be one."""
    return _resolved(override if override is not None else _default(workspace or plugins_dir))


def check_out_of_reach(file: Path, argument: str, workspace: Path | None, plugins_dir: Path | None) -> None:
    """For a file that the host keeps elsewhere. Raises SetupError when plugins may get at it: when it lies in the
    workspace or in ``plugins_dir``."""
    for folder in (workspace, plugins_dir):
        if folder is not None and _is_within(_resolved(file), _resolved(folder)):
            raise SetupError(
                f"{argument} {str(file)!r} lies in {str(folder)!r}, within plugins' reach; move it outside"
            )


def _default(owner: Path | None) -> Path:
    if owner is None:
        raise ValueError("there is neither a workspace nor a plugins folder to name it after")
    owner = _resolved(owner)
    # The hash keeps workspaces of the same name apart, the name tells a person what the folder is.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", owner.name).strip(".-")[:40] or "workspace"
    digest = hashlib.sha256(os.fsencode(owner)).hexdigest()[:16]
    return user_data_path("isoplug", appauthor=False) / f"{name}-{digest}"


def _resolved(path: Path) -> Path:
    # Not Path.resolve(): before 3.13 it raises RuntimeError at a loop of links. realpath leaves that to mkdir's ELOOP.
    return Path(os.path.realpath(path))


def _refuse_overlap(folder: Path, workspace: Path | None, plugins_dir: Path | None) -> None:
    if workspace is not None and _is_within(folder, _resolved(workspace)):
        raise SetupError(
            f"the state folder {str(folder)!r} lies in the workspace {str(workspace)!r}, where plugins may read and "
            "write; choose a folder outside with state_dir="
        )
    if workspace is not None and _is_within(_resolved(workspace), folder):
        raise SetupError(
            f"the state folder {str(folder)!r} contains the workspace {str(workspace)!r}; choose a folder of its own "
            "with state_dir="
        )
    if plugins_dir is not None and _is_within(folder, _resolved(plugins_dir)):
        raise SetupError(
            f"the state folder {str(folder)!r} lies in the plugins folder {str(plugins_dir)!r}; choose a folder "
            "outside with state_dir="
        )


def _is_within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or below it, by name or by file identity."""
    if path.is_relative_to(folder):
        return True
    identity = _identity(folder)
    return identity is not None and any(_identity(place) == identity for place in (path, *path.parents))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make(folder: Path) -> None:
    """Make the folder and its missing parents, all 0700 (the XDG rule for a missing data directory)."""
    for place in (*reversed(folder.parents), folder):
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            continue
        except OSError:
            if not place.is_dir():  # a read-only or unwritable parent that exists is no obstacle
                raise


def _make_private(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise SetupError(
                f"the state folder {str(folder)!r} belongs to user {status.st_uid}, this is user {os.geteuid()}; run "
                "as that user, or choose another folder with state_dir="
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            if os.listdir(descriptor):
                raise SetupError(
                    f"the state folder {str(folder)!r} is open to other users (mode {mode:04o}); look through what it "
                    f"holds, then run: chmod 700 '{folder}'"
                )
            os.fchmod(descriptor, 0o700)
        elif mode & 0o700 != 0o700:
            raise SetupError(
                f"the state folder {str(folder)!r} has mode {mode:04o}, which keeps its owner out; run: "
                f"chmod 700 '{folder}'"
            )
    finally:
        os.close(descriptor)
