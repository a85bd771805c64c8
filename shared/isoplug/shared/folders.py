"""Removing a folder that somebody else filled, whatever is in it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["remove_folder"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: How often the folder is emptied again while whoever fills it has been killed but is not dead yet.
_PASSES = 100


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove ``folder`` and everything in it. Links are removed, not followed; what cannot be removed stays.

    ``shutil.rmtree`` calls itself and opens a descriptor for each level, so a guest could make a tree that it cannot
    remove (a thousand folders in each other). Here a folder that holds folders first hands them up to the top, so every
    one is emptied at depth one. That takes four descriptors, a folder without folders one, an empty one none.
    """
    for _ in range(_PASSES):
        try:
            os.rmdir(folder)
            return
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            with suppress(OSError):
                _empty(os.fspath(folder))


def _empty(folder: str) -> None:
    if not _unlink_files(folder):
        return
    unique, numbers = os.urandom(8).hex(), itertools.count()
    with _opened(folder) as top:
        pending = _unlink_files(top)
        while pending:
            name = pending.pop()
            with suppress(OSError):  # somebody else was faster, or it is not ours to remove
                with _opened(name, top) as inner:
                    for child in _unlink_files(inner):
                        lifted = f"{unique}-{next(numbers)}"
                        with suppress(OSError):
                            os.rename(child, lifted, src_dir_fd=inner, dst_dir_fd=top)
                            pending.append(lifted)
                os.rmdir(name, dir_fd=top)


def _unlink_files(folder: str | int) -> list[str]:
    """Remove everything in the folder but folders; the names of those."""
    left = []
    for name in os.listdir(folder):
        try:
            if isinstance(folder, str):
                os.unlink(os.path.join(folder, name))
            else:
                os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            left.append(name)
        except OSError:  # gone already, or not ours
            continue
    return left


@contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    folder = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)
