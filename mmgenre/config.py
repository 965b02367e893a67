"""Typed configs: a YAML file plus `dotted.key=value` overrides, every wrong field reported at once."""

import argparse
import difflib
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mmgenre.errors import InputError, one_line

C = TypeVar("C", bound="Config")
QUOTE = "'"


class Config(BaseModel):
    """Frozen settings of one thing; unknown fields are refused, `build()` (where there is one) makes the thing."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The config in a YAML file, with overrides such as `optimizer.lr_head=1e-3` applied.

        Raises:
            InputError: no such file, not YAML, or wrong fields: all of them, each with its path.
        """
        return cls.parse(read_values(Path(path), overrides), where=str(path))

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """Validate plain values; `where` names their origin in the error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_explain(cls, error, where)) from None

    def to_settings(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """The fields as JSON values, less some: what a manifest records."""
        return self.model_dump(mode="json", exclude=set(without))


def parse_args(config_types: Sequence[type[Config]], arguments: Sequence[str] | None = None) -> Config:
    """Read `CONFIG.yaml [dotted.key=value ...] [-- COMMAND ...]` from the command line.

    What stands after `--` is the field `command`.

    Args:
        config_types: of which the one is taken that has most of the fields that are given; of equals one
            that asks for no more, and then the first.
        arguments: instead of the command line's.
    """
    parser = argparse.ArgumentParser(
        description=" Or: ".join(map(_summary, config_types)), epilog=". ".join(map(_fields, config_types))
    )
    parser.add_argument("config", help="a YAML file, such as configs/<job>/default.yaml")
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value", help="replaces one field of the file")
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    parsed = parser.parse_args(words[:end])
    given = read_values(Path(parsed.config), parsed.overrides)
    if words[end + 1 :]:
        given["command"] = words[end + 1 :]
    fitting = max(config_types, key=lambda one: _fit(one, set(given)))
    return fitting.parse(given, where=parsed.config)


def _fit(config_type: type[Config], given: set[str]) -> tuple[int, bool]:
    """How many of the fields it has, and whether they are all that it asks for."""
    fields = config_type.model_fields
    return len(given & fields.keys()), given >= {name for name, field in fields.items() if field.is_required()}


def _summary(config_type: type[Config]) -> str:
    return (config_type.__doc__ or "").splitlines()[0]


def _fields(config_type: type[Config]) -> str:
    return "fields: " + ", ".join(_describe(name, field) for name, field in config_type.model_fields.items())


def _describe(name: str, field: Any) -> str:
    return f"{name} (required)" if field.is_required() else name


def read_values(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields in a YAML file, with overrides such as `optimizer.lr_head=1e-3` applied."""
    values = read_yaml(path)
    for override in overrides:
        _apply(values, override)
    return values


def assign(values: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set one dotted path in nested dicts, making those that lack; `where` names its origin in the error.

    Raises:
        InputError: something on the way has no fields.
    """
    *parents, last = path.split(".")
    for depth, parent in enumerate(parents, start=1):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise InputError(f"{where}: {'.'.join(parents[:depth])} has no fields below it")
    values[last] = value


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        InputError: no such file, or not YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        beside = sorted(str(sibling) for sibling in path.parent.glob("*.yaml"))
        choices = f"; beside it: {', '.join(beside)}" if beside else ""
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a YAML config{choices}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; expected `field: value` lines")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise InputError(f"{override!r}: expected dotted.key=value, such as output=runs/first")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str | dict) and not text.startswith(('"', "'", "{")):
        # Plain text is meant as it stands: `Room: no. #9` is neither a mapping nor followed by a comment.
        value = text
    assign(values, key, value, repr(override))


def _explain(config_type: type[Config], error: ValidationError, where: str) -> str:
    lines = [_explain_one(config_type, problem) for problem in error.errors(include_url=False)]
    if len(lines) == 1:
        return f"{where}: {lines[0]}"
    return "\n  ".join([f"{where}: {len(lines)} fields are wrong", *lines])


def _explain_one(config_type: type[Config], problem: Any) -> str:
    *parents, name = problem["loc"] or ("",)
    path, holders = _resolve(config_type, parents)
    dotted = ".".join([*path, str(name)])
    match problem["type"]:
        case "extra_forbidden":
            fields = sorted({field for holder in holders for field in holder.model_fields})
            near = difflib.get_close_matches(str(name), fields, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            return f"{dotted}: unknown field; {guess}fields here: {', '.join(fields)}"
        case "missing":
            return f"{dotted}: missing; give it as {dotted}=VALUE or in the file"
        case "union_tag_invalid":
            tag, discriminator, choices = (problem["ctx"][key] for key in ("tag", "discriminator", "expected_tags"))
            return f"{dotted}.{discriminator.strip(QUOTE)}: {tag!r} is none of {choices}"
        case "union_tag_not_found":
            tag = problem["ctx"]["discriminator"].strip(QUOTE)
            kinds = [holder.model_fields[tag].default for holder in _resolve(config_type, problem["loc"])[1]]
            return f"{dotted}.{tag}: missing; give it as {dotted}.{tag}=VALUE, one of {', '.join(map(repr, kinds))}"
        case "value_error":
            return f"{dotted}: {problem['ctx']['error']}" if dotted else str(problem["ctx"]["error"])
        case _:
            return f"{dotted}: {problem['msg']}, found {problem['input']!r}"


def _resolve(config_type: type[Config], location: Iterable[int | str]) -> tuple[list[str], list[type[Config]]]:
    """The path a person would type for a pydantic location, and the configs that stand there.

    Pydantic puts the tag of a discriminated union into the location; a person does not.
    """
    path: list[str] = []
    holders = [config_type]
    for part in location:
        annotations = [holder.model_fields[part].annotation for holder in holders if part in holder.model_fields]
        tagged = [holder for holder in holders if part in _tags(holder)]
        if annotations:
            path.append(str(part))
            holders = [found for annotation in annotations for found in _configs_in(annotation)]
        elif tagged:
            holders = tagged
        else:
            path.append(str(part))
    return path, holders


def _tags(config_type: type[Config]) -> set[Any]:
    """The values that mark this config in a discriminated union."""
    return {
        value
        for field in config_type.model_fields.values()
        if typing.get_origin(field.annotation) is typing.Literal
        for value in typing.get_args(field.annotation)
    }


def _configs_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _configs_in(argument)]
