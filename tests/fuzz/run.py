"""A longer search for inputs that break a promise: ``python tests/fuzz/run.py TARGET --seconds 600``.

Needs the extra ``fuzz``: ``pip install -e '.[dev,fuzz]'``. Inputs that reach something new are kept in a folder under
the system's temporary one, and the next run goes on from there. An input that breaks a promise, takes longer than a
minute or the memory beyond a GiB ends the run with an error; its file is named, and ``--input FILE`` feeds it again.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

_INPUT_SECONDS = 60
_MEMORY_MIB = 1024
_MAX_BYTES = 64 << 10

#: Spelt out, for the targets themselves are imported under instrumentation.
_NAMES = [
    "checksums",
    "configs",
    "frames",
    "front_matter",
    "manifests",
    "modules",
    "paths",
    "recordings",
    "rewrites",
    "rules",
    "signatures",
    "urls",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=_NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path, help="feed this file once, and nothing else")
    options = parser.parse_args()
    if options.input is not None:
        _target(options.target).feed(options.input.read_bytes())
    else:
        _fuzz(options.target, options.seconds)


def _target(name: str) -> Any:
    if name == "modules":
        from fuzz.modules import target

        folder = _folder("modules") / "work"
        shutil.rmtree(folder, ignore_errors=True)
        return target(folder)
    from fuzz.targets import TARGETS

    return TARGETS[name]


def _folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / "isoplug-fuzz" / name


def _fuzz(name: str, seconds: int) -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; run: pip install -e '.[dev,fuzz]'")
    with atheris.instrument_imports(include=["isoplug", "json", "tomllib", "urllib", "fuzz"]):
        from fuzz.targets import PIECES

        target = _target(name)
    folder = _folder(name)
    corpus, broken = folder / "corpus", folder / "broken"
    for place in (corpus, broken):
        place.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    dictionary = folder / "dictionary"
    dictionary.write_text(_dictionary(PIECES))
    longest = max(_MAX_BYTES, *map(len, target.seeds))
    arguments = [
        f"-max_total_time={seconds}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-max_len={longest}",
        f"-artifact_prefix={broken}/",
        f"-dict={dictionary}",
        "-keep_seed=1",  # also those that reach nothing new: they are what is bent
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *arguments], target.feed)
    atheris.Fuzz()


def _dictionary(pieces: Sequence[bytes]) -> str:
    escaped = ("".join(f"\\x{byte:02x}" for byte in piece) for piece in pieces)
    return "".join(f'"{piece}"\n' for piece in escaped)


if __name__ == "__main__":
    main()
