"""The search space: one distribution for each training field that trials vary.

A point is one sample of the space: a JSON value for each dotted path. The empty point is the preset.
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
from mmgenre.training.config import TrainConfig

Point = dict[str, Any]
# After this many duplicates in a row, a space counts as exhausted.
_MAX_DUPLICATES = 1000


class _Range(Config):
    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self

    @property
    def extremes(self) -> list[Any]:
        """The lowest and the highest value."""
        return [self.low, self.high]


class Uniform(_Range):
    """A number between `low` and `high`, uniformly distributed."""

    kind: Literal["uniform"] = "uniform"

    def sample(self, random: np.random.Generator) -> float:
        """A random value."""
        return float(random.uniform(self.low, self.high))

    def suggest(self, trial: Any, path: str) -> float:
        """A value suggested by an Optuna trial."""
        return trial.suggest_float(path, self.low, self.high)


class LogUniform(_Range):
    """A number between `low` and `high`, whose logarithm is uniformly distributed."""

    kind: Literal["loguniform"] = "loguniform"
    low: float = Field(gt=0)

    def sample(self, random: np.random.Generator) -> float:
        """A random value."""
        return float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))

    def suggest(self, trial: Any, path: str) -> float:
        """A value suggested by an Optuna trial."""
        return trial.suggest_float(path, self.low, self.high, log=True)


class Integers(_Range):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int

    def sample(self, random: np.random.Generator) -> int:
        """A random value."""
        return int(random.integers(self.low, self.high, endpoint=True))

    def suggest(self, trial: Any, path: str) -> int:
        """A value suggested by an Optuna trial."""
        return trial.suggest_int(path, self.low, self.high)

    @property
    def values(self) -> list[int]:
        """All values, in order."""
        return list(range(self.low, self.high + 1))


class Choice(Config):
    """One of a list of JSON values, which may be whole config sections."""

    kind: Literal["choice"] = "choice"
    values: list[Any] = Field(min_length=1)

    def sample(self, random: np.random.Generator) -> Any:
        """A random value."""
        return self.values[random.integers(len(self.values))]

    def suggest(self, trial: Any, path: str) -> Any:
        """A value suggested by an Optuna trial, which knows the values as JSON."""
        return json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in self.values]))

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
        point: values that replace some of them.
        where: origin of the values, for the error message.

    Raises:
        InputError: an unknown path, or an invalid value.
    """
    return TrainConfig.parse(training_fields(preset, point, where), where)


def training_fields(preset: Mapping[str, Any], point: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a point's training, not yet validated."""
    values = json.loads(json.dumps(preset))
    for path, value in point.items():
        assign(values, path, value, where)
    return values


def require_valid(preset: Mapping[str, Any], space: Mapping[str, Distribution]) -> None:
    """Raise InputError unless the extremes of all distributions give valid trainings.

    Each path is tried alone, and then all paths together at their first and last extremes, for fields that are only
    valid in combination.
    """
    for path, distribution in space.items():
        for value in distribution.extremes:
            training(preset, {path: value}, f"space.{path}")
    for end in (0, -1):
        training(preset, {path: distribution.extremes[end] for path, distribution in space.items()}, "space")


def random_points(space: Mapping[str, Distribution], count: int, seed: int) -> list[Point]:
    """Distinct random points, fewer than `count` if the space is exhausted; a higher count extends the same list."""
    random = np.random.default_rng(seed)
    points: dict[str, Point] = {}
    duplicates = 0
    while len(points) < count and duplicates < _MAX_DUPLICATES:
        point = {path: distribution.sample(random) for path, distribution in space.items()}
        duplicates = duplicates + 1 if name_of(point) in points else 0
        points.setdefault(name_of(point), point)
    return list(points.values())


def grid(space: Mapping[str, Distribution]) -> list[Point]:
    """All combinations of values; the last path varies fastest.

    Raises:
        InputError: a distribution is continuous.
    """
    values = []
    for path, distribution in space.items():
        if not isinstance(distribution, Integers | Choice):
            raise InputError(f"space.{path}: a grid needs kind choice or int, found {distribution.kind}")
        values.append(distribution.values)
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def name_of(point: Mapping[str, Any]) -> str:
    """A name derived from the point, the same in every run."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12]


def point_text(point: Mapping[str, Any]) -> str:
    """A point as text for people, such as `optimizer.lr_head=0.001, epochs=3`."""
    values = {path: f"{value:.4g}" if isinstance(value, float) else str(value) for path, value in point.items()}
    return ", ".join(f"{path}={value}" for path, value in values.items()) or "the preset"
