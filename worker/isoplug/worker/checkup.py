"""A look at this machine from where workers start: for ``isoplug doctor``, in an interpreter of its own."""

from __future__ import annotations

import json
from importlib.metadata import version

from isoplug.worker import guest
from isoplug.worker.lockdown import trial

__all__ = ["main"]


def main(folder: str) -> None:
    """Print one JSON object: ``layers`` (name → why it does not hold here, nothing when it does), ``landlock_abi``
    (0: none) and ``versions``. ``folder`` is an empty one."""
    report = {
        "layers": trial.hold(folder),
        "landlock_abi": trial.landlock_abi(),
        "versions": {
            "extism": version("extism"),
            "libextism": guest.runtime_version(),
            "msgpack": version("msgpack"),
        },
    }
    print(json.dumps(report))
