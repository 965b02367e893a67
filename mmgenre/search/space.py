"""What a search may change: fields of a training by their dotted paths, each with a distribution.

A point is one draw: a value for each path, as JSON.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mmgenre.config import Config, assign
from mmgenre.errors import InputError
from mmgenre.training.setup import TrainConfig

Point = dict[str, Any]
# Draws in vain after which a space counts as used up.
_MAX_REPEATS = 1000


class _Range(Config):
    low: float
    high: float

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self

    @property
    def extremes(self) -> list[Any]:
        """The lowest and the highest value."""
        return [self.low, self.high]


class Uniform(_Range):
    """Any number between two."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, random: np.random.Generator) -> float:
        """A value."""
        return float(random.uniform(self.low, self.high))


class LogUniform(_Range):
    """Any number between two, each order of magnitude as likely as any other."""

    kind: Literal["loguniform"] = "loguniform"
    low: float = Field(gt=0)

    def draw(self, random: np.random.Generator) -> float:
        """A value."""
        return float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))


class Integers(_Range):
    """Any whole number from low to high, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int

    def draw(self, random: np.random.Generator) -> int:
        """A value."""
        return int(random.integers(self.low, self.high, endpoint=True))

    @property
    def values(self) -> list[int]:
        """All of them."""
        return list(range(self.low, self.high + 1))


class Choice(Config):
    """One of some values, which may be whole sections."""

    kind: Literal["choice"] = "choice"
    values: list[Any] = Field(min_length=1)

    def draw(self, random: np.random.Generator) -> Any:
        """A value."""
        return self.values[random.integers(len(self.values))]

    @property
    def extremes(self) -> list[Any]:
        """All values."""
        return self.values


Distribution = Annotated[Uniform | LogUniform | Integers | Choice, Field(discriminator="kind")]
Space = dict[str, Distribution]


def training(preset: Mapping[str, Any], point: Mapping[str, Any], where: str) -> TrainConfig:
    """The training of a point.

    Args:
        preset: fields of the training that the search starts from.
        point: replaces some of them.
        where: names the origin of the values in an error.

    Raises:
        InputError: a path is unknown, or a value out of its range.
    """
    return TrainConfig.parse(fields(preset, point, where), where)


def fields(preset: Mapping[str, Any], point: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same before it is parsed."""
    values = json.loads(json.dumps(preset))
    for path, value in point.items():
        assign(values, path, value, where)
    return values


def require_valid(preset: Mapping[str, Any], space: Mapping[str, Distribution]) -> None:
    """Raise InputError unless a training can be made of the preset with each end of each distribution in its place.

    One path at a time, and all at their lowest and highest together, for fields that only go with one another.
    """
    for path, distribution in space.items():
        for value in distribution.extremes:
            training(preset, {path: value}, f"space.{path}")
    for end in (0, -1):
        training(preset, {path: distribution.extremes[end] for path, distribution in space.items()}, "space")


def drawn(space: Mapping[str, Distribution], count: int, seed: int) -> list[Point]:
    """Different points, at random; fewer than asked for when there are no more. More of them begin with the same."""
    random = np.random.default_rng(seed)
    points: dict[str, Point] = {}
    repeats = 0
    while len(points) < count and repeats < _MAX_REPEATS:
        point = {path: distribution.draw(random) for path, distribution in space.items()}
        repeats = repeats + 1 if name_of(point) in points else 0
        points.setdefault(name_of(point), point)
    return list(points.values())


def grid(space: Mapping[str, Distribution]) -> list[Point]:
    """Every combination, the last path varying fastest.

    Raises:
        InputError: a distribution has no end of values.
    """
    values = []
    for path, distribution in space.items():
        if not isinstance(distribution, Integers | Choice):
            raise InputError(f"space.{path}: a grid needs kind choice or int, found {distribution.kind}")
        values.append(distribution.values)
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def name_of(point: Mapping[str, Any]) -> str:
    """The same for the same point, in this run and in the next."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12]
