"""Reads ``isoplug.toml``. All mistakes in it are reported at once, each with its key and what to write."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from isoplug.shared.errors import SetupError
from isoplug.supervisor.config.model import Config, FromFile, OwnPlugin, unit_of
from isoplug.supervisor.files import read_bounded, reason

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["configured", "describe_problems", "load_config"]

_MAX_BYTES: Final = 1 << 20
_MAX_PROBLEMS: Final = 20


def load_config(path: Path) -> Config:
    """The configuration in a TOML file; keys that it leaves out have their defaults.

    Raises:
        SetupError: the file cannot be read, is not TOML (with the line), or holds unknown keys or unusable
            values.
    """
    path = Path(os.path.abspath(path))
    table = _read_table(path)
    try:
        return Config.model_validate(table, context=FromFile(path.parent))
    except ValidationError as error:
        problems = describe_problems(error)
        shown = "".join(f"\n  {problem}" for problem in problems[:_MAX_PROBLEMS])
        if len(problems) > _MAX_PROBLEMS:
            shown += f"\n  and {len(problems) - _MAX_PROBLEMS} more"
        raise SetupError(f"the configuration {str(path)!r} cannot be used:{shown}") from error


def configured(config: Config, *, call_timeout: float | None = None, **arguments: Any) -> Config:
    """``config`` with the arguments that were given. Raises SetupError that names what is wrong."""
    # Text stays text for the model to parse: Path("") would be the current folder, which nobody meant.
    changes = {
        name: Path(value) if isinstance(value, os.PathLike) else value
        for name, value in arguments.items()
        if value is not None
    }
    if call_timeout is not None:
        changes["calls"] = {**dict(config.calls), "timeout": call_timeout}
    try:
        return config.override(**changes)
    except ValidationError as error:
        raise SetupError("; ".join(describe_problems(error))) from error


def describe_problems(error: ValidationError) -> list[str]:
    """One line per mistake in a ``Config``: the key's path, what is wrong, what to write."""
    return [_describe(problem) for problem in error.errors(include_url=False)]


def _read_table(path: Path) -> dict[str, Any]:
    try:
        data = read_bounded(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise SetupError(
            f"cannot read the configuration {str(path)!r}: {reason(error)}; check the path given with --config or to "
            "from_config()"
        ) from error
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SetupError(
            f"the configuration {str(path)!r} is not UTF-8 text (line {line}); save it in that encoding"
        ) from error
    except (ValueError, RecursionError) as error:  # tomllib: its own error is a ValueError, deep nesting recurses
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        last_line = data.rstrip().count(b"\n") + 1
        words = words.replace("(at end of document)", f"(at the end, line {last_line})")
        raise SetupError(f"the configuration {str(path)!r} is not TOML: {words}") from error


def _describe(problem: ErrorDetails) -> str:
    location = tuple(str(part) for part in problem["loc"])
    key = ".".join(_quoted(part) for part in location) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: {_unknown(location)}"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}"
        case "model_type" | "model_attributes_type":
            return f"{key}: must be a section; write [{key}] on a line of its own and its keys below it"
        case "int_type" | "int_from_float":
            advice = f"write for example {_example(location)}"
            return f"{key}: must be a whole number, not {_shown(problem['input'])}; {advice}"
        case "float_type":
            return f"{key}: must be a number, not {_shown(problem['input'])}"
        case "string_type":
            return f"{key}: must be text, not {_shown(problem['input'])}; write it in quotes"
        case "path_type" | "is_instance_of":
            return f"{key}: must be a path, not {_shown(problem['input'])}; write it in quotes"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as kind:
            (bound,) = problem["ctx"].values()
            words = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
            unit = _unit(location)
            rule = f"must be {words.get(kind, 'at most')} {_quantity(bound, unit)}"
            value = problem["input"]  # as written or as parsed, that is pydantic's choice
            shown = value if isinstance(value, str) else _quantity(value, unit)
            return f"{key}: {rule}, not {shown}"
        case _:
            message = problem["msg"].removeprefix("Input ")
            return f"{key}: {message}, not {_shown(problem['input'])}"


def _unknown(location: tuple[str, ...]) -> str:
    *section, name = location
    model = _model_at(tuple(section))
    known = list(model.model_fields)
    if close := difflib.get_close_matches(name, known, n=1):
        return f"unknown key; did you mean {'.'.join(_quoted(part) for part in [*section, close[0]])!r}?"
    for place, keys in _sections().items():  # the right key in the wrong section
        if name in keys:
            return f"unknown key here; it belongs to {f'section [{place}]' if place else 'the top of the file'}"
    return f"unknown key; known here: {', '.join(known)}"


def _sections() -> dict[str, list[str]]:
    sections = {"": list(Config.model_fields)}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[name] = list(field.annotation.model_fields)
    return sections


def _model_at(section: tuple[str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    if section[:1] == ("plugins",):  # a section each, by id
        model, section = OwnPlugin, section[2:]
    if section and (field := model.model_fields.get(section[0])) is not None:
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return model


def _quoted(part: str) -> str:
    """As it stands in TOML: plugin ids have dots."""
    return f'"{part}"' if "." in part else part


def _unit(location: tuple[str, ...]) -> str:
    field = _model_at(location[:-1]).model_fields.get(location[-1]) if location else None
    return "" if field is None else unit_of(field)


def _quantity(number: float, unit: str) -> str:
    """A bound in the way that the file writes it."""
    steps = {
        "s": (("h", 3600), ("s", 1)),
        "B": (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)),
    }
    for name, size in steps.get(unit, ()):
        if number >= size and number % size == 0:
            return f"{number / size:g}{name}"
    return f"{number:g}{unit}"


def _example(location: tuple[str, ...]) -> str:
    field = _model_at(location[:-1]).model_fields.get(location[-1]) if location else None
    return f"{location[-1]} = {field.default}" if field is not None else "8"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
