"""Typed configs: a YAML file plus `dotted.key=value` overrides; all wrong fields are reported at once."""

import argparse
import difflib
import importlib.util
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mmgenre.errors import InputError, one_line

QUOTE = "'"


@dataclass(frozen=True)
class Requirements:
    """What one stage of a run needs; jobs/doctor.py checks it before the run.

    Args:
        inputs: files and folders that it reads; None stands for an optional one that is not set.
        outputs: folders that it writes; likewise.
        cpus: CPUs that it needs at the same time; it waits until the cluster has them.
        gpus: likewise.
        urls: servers that it sends requests to.
        keys: by web service, what is wrong with its API key in the environment; None when nothing is.
        packages: modules of optional dependencies.
        mistakes: by input, why the job would refuse it; inputs that another stage writes first do not count.
    """

    inputs: tuple[str | None, ...] = ()
    outputs: tuple[str | None, ...] = ()
    cpus: float = 0
    gpus: float = 0
    urls: tuple[str, ...] = ()
    keys: Mapping[str, str | None] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    mistakes: Mapping[str, str] = field(default_factory=dict)


def missing_packages(modules: Iterable[str]) -> tuple[str, ...]:
    """Those of the modules that are not installed; nothing is imported."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


class Config(BaseModel):
    """Frozen settings of one thing; unknown fields are refused. `build()`, where defined, creates the thing."""

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
        """Validate plain values; `where` names their origin in the error message."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_format_errors(cls, error, where)) from None

    def to_settings(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """The fields as JSON values, except those in `without`: what a manifest records."""
        return self.model_dump(mode="json", exclude=set(without))

    def requirements(self) -> tuple[Requirements, ...]:
        """What a run with this config needs, one entry per stage; the config of every job defines it."""
        return ()


def parse_args(config_types: Sequence[type[Config]], arguments: Sequence[str] | None = None) -> Config:
    """Read `CONFIG.yaml [dotted.key=value ...] [-- COMMAND ...]` from the command line.

    The words after `--` become the field `command`.

    Args:
        config_types: the config types of one job; see `_best_fits` for how one is chosen.
        arguments: in place of the command line's.
    """
    parser = argparse.ArgumentParser(
        description=" Or: ".join(map(_summary, config_types)), epilog=". ".join(map(_fields, config_types))
    )
    options, values = _read_arguments(parser, arguments)
    return _best_fits(config_types, values)[0].parse(values, where=options.config)


def parse_any_job(jobs: Mapping[str, Sequence[type[Config]]], arguments: Sequence[str] | None = None) -> Config:
    """Read `JOB CONFIG.yaml [dotted.key=value ...]`, the arguments of any job after its name.

    Args:
        jobs: the config types of each job, by its name.
        arguments: in place of the command line's.
    """
    parser = argparse.ArgumentParser(description="Check what a run needs; takes the arguments of its job.")
    parser.add_argument("job", choices=jobs, help="the job that the config is for")
    options, values = _read_arguments(parser, arguments)
    return _best_fits(jobs[options.job], values)[0].parse(values, where=options.config)


def _read_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The parsed options, and the fields that the file and the overrides set."""
    parser.add_argument("config", help="a YAML file, such as configs/<job>/default.yaml")
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value", help="replaces one field of the file")
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_intermixed_args(words[:end])
    values = read_values(Path(options.config), options.overrides)
    if words[end + 1 :]:
        values["command"] = words[end + 1 :]
    return options, values


def _best_fits(config_types: Sequence[type[Config]], values: Mapping[str, Any]) -> list[type[Config]]:
    """The types with the most of the given fields and, among those, with the fewest missing required fields."""

    def rank(config_type: type[Config]) -> tuple[int, int]:
        fields = config_type.model_fields
        missing = [name for name, info in fields.items() if info.is_required() and name not in values]
        return len(values.keys() & fields.keys()), -len(missing)

    best = max(map(rank, config_types))
    return [config_type for config_type in config_types if rank(config_type) == best]


def _summary(config_type: type[Config]) -> str:
    return (config_type.__doc__ or "").splitlines()[0]


def _fields(config_type: type[Config]) -> str:
    names = [f"{name} (required)" if info.is_required() else name for name, info in config_type.model_fields.items()]
    return f"fields: {', '.join(names)}"


def read_values(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields in a YAML file, with overrides such as `optimizer.lr_head=1e-3` applied."""
    values = read_yaml(path)
    for override in overrides:
        _apply(values, override)
    return values


def assign(values: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set the value at a dotted path in nested dicts, creating missing dicts; `where` names its origin in errors.

    Raises:
        InputError: a part of the path is a plain value, which has no fields.
    """
    *parents, last = path.split(".")
    for depth, parent in enumerate(parents, start=1):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise InputError(f"{where}: {'.'.join(parents[:depth])} is a plain value without fields")
    values[last] = value


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        InputError: no such file, or not YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        siblings = sorted(str(sibling) for sibling in path.parent.glob("*.yaml"))
        choices = f"; in that folder: {', '.join(siblings)}" if siblings else ""
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a YAML config{choices}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: contains a {type(values).__name__}; expected `field: value` lines")
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
        # Unquoted text is taken literally: `Room: no. #9` is neither a mapping nor followed by a comment.
        value = text
    assign(values, key, value, repr(override))


def _format_errors(config_type: type[Config], error: ValidationError, where: str) -> str:
    lines = [_format_error(config_type, details) for details in error.errors(include_url=False)]
    if len(lines) == 1:
        return f"{where}: {lines[0]}"
    return "\n  ".join([f"{where}: {len(lines)} fields are wrong", *lines])


def _format_error(config_type: type[Config], details: Any) -> str:
    *parents, name = details["loc"] or ("",)
    path, holders = _resolve(config_type, parents)
    dotted = ".".join([*path, str(name)])
    match details["type"]:
        case "extra_forbidden":
            fields = sorted({field for holder in holders for field in holder.model_fields})
            similar = difflib.get_close_matches(str(name), fields, n=1)
            guess = f"did you mean {similar[0]}? " if similar else ""
            return f"{dotted}: unknown field; {guess}known fields: {', '.join(fields)}"
        case "missing":
            return f"{dotted}: missing; set {dotted}=VALUE or add it to the file"
        case "union_tag_invalid":
            tag, discriminator, choices = (details["ctx"][key] for key in ("tag", "discriminator", "expected_tags"))
            return f"{dotted}.{discriminator.strip(QUOTE)}: {tag!r} is not one of {choices}"
        case "union_tag_not_found":
            tag = details["ctx"]["discriminator"].strip(QUOTE)
            kinds = [holder.model_fields[tag].default for holder in _resolve(config_type, details["loc"])[1]]
            return f"{dotted}.{tag}: missing; set {dotted}.{tag} to one of {', '.join(map(repr, kinds))}"
        case "value_error":
            return f"{dotted}: {details['ctx']['error']}" if dotted else str(details["ctx"]["error"])
        case _:
            return f"{dotted}: {details['msg']}, found {details['input']!r}"


def _resolve(config_type: type[Config], location: Iterable[int | str]) -> tuple[list[str], list[type[Config]]]:
    """The path that a user would type for a pydantic location, and the config types that it leads to.

    Pydantic includes the tag of a discriminated union in a location; users do not type it.
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
    """The values that select this config in a discriminated union."""
    return {
        value
        for info in config_type.model_fields.values()
        if typing.get_origin(info.annotation) is typing.Literal
        for value in typing.get_args(info.annotation)
    }


def _configs_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [config_type for argument in typing.get_args(annotation) for config_type in _configs_in(argument)]
