"""What a search is asked for: its config, the training that trials change, the points that are known before it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmgenre.config import Config, assign, read_yaml
from mmgenre.errors import InputError
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.metrics import Objective
from mmgenre.search.space import Distribution, LogUniform, Point, Uniform, drawn, grid
from mmgenre.tables import storage
from mmgenre.training.mlflow_store import MlflowConfig

FEATURES, TRACKING = "features", "tracking"


class TuneConfig(Config):
    """Search the settings of a training."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the search; the same command goes on with an unfinished one")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    preset: str = Field(description="the training that the search starts from, and is compared with: a YAML file")
    fixed: dict[str, Any] = Field(default_factory=dict, description="changes of the preset, such as fixed.epochs=9")
    space: dict[str, Distribution] = Field(min_length=1, description="what trials change, by dotted path")
    trials: int = Field(12, ge=1, description="beside the preset itself; a higher number goes on with the search")
    searcher: Literal["random", "grid", "optuna"] = Field("random", description="optuna: TPE, of the extra `optuna`")
    scheduler: Literal["none", "asha", "median", "pbt"] = Field(
        "none", description="what stops or changes trials early"
    )
    grace_epochs: int = Field(1, ge=1, description="before a scheduler stops a trial; between two changes by pbt")
    reduction_factor: float = Field(3, gt=1, description="of asha: one in so many trials goes on")
    objective: Objective = Field("macro_f1", description="of the validation movies, at held-out thresholds")
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0, description="null: 1 where there are GPUs, else 0")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; null: as many as there is room for")
    max_seconds: float | None = Field(None, gt=0, description="after which trials are stopped until the next run")
    max_failures: int = Field(2, ge=0, description="times a trial is started again whose process died")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    refit: bool = Field(False, description="train the best point again on train and validation movies")
    seed: int = Field(0, ge=0, description="of the points")
    tracking: MlflowConfig | None = Field(
        None, description="a store with a run for the search, and within it one for each trial; null: the preset's"
    )

    @field_validator("space", mode="before")
    @classmethod
    def _by_path(cls, space: Any) -> Any:
        """Paths are written with dots or one below the other, as `space.model.c.low=0.5` on the command line is."""
        if not isinstance(space, dict):
            return space
        found: dict[str, Any] = {}
        for leaf, value in _leaves(space):
            path, _, name = leaf.rpartition(".")
            found |= {path: found.get(path, {}) | {name: value}} if path else {leaf: value}
        return found

    @model_validator(mode="after")
    def _of_one_mind(self) -> Self:
        numbers = [path for path, one in self.space.items() if isinstance(one, Uniform | LogUniform)]
        if self.scheduler == "pbt" and (self.searcher != "random" or not numbers):
            raise ValueError(
                "scheduler=pbt: changes paths of kind uniform or loguniform of points drawn at random; found "
                f"searcher={self.searcher}, and {len(numbers)} such paths"
            )
        if self.scheduler == "pbt" and self.max_concurrent is not None:
            raise ValueError("max_concurrent: with scheduler=pbt all trials take turns; leave it out")
        return self


def preset_of(config: TuneConfig) -> dict[str, Any]:
    """Fields of the training that trials change."""
    values = read_yaml(Path(config.preset))
    for path, value in _leaves(config.fixed):
        assign(values, path, value, "fixed")
    output = storage.absolute(config.output)
    features = values.get(FEATURES) or storage.join(output, FEATURES)
    return values | {
        "dataset": storage.absolute(config.dataset),
        "output": storage.join(output, "retrained"),
        FEATURES: features if features == "none" else storage.absolute(features),
        "score": config.objective,
        "accelerator": config.accelerator,
        "cpus_per_worker": max(1, int(config.cpus_per_trial)),
        # Trials are runs of the search's own.
        TRACKING: None,
    }


def tracking_of(config: TuneConfig) -> MlflowConfig | None:
    """The search's, or else its preset's.

    Raises:
        InputError: the preset's is not one.
    """
    values = read_yaml(Path(config.preset)).get(TRACKING)
    if config.tracking is not None or values is None:
        return config.tracking
    if not isinstance(values, dict):
        raise InputError(f"{config.preset}: tracking: found {values!r}; expected its fields")
    return MlflowConfig.parse(values, where=f"{config.preset}: tracking")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values, whether fields are written with dots or one below the other."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def points_of(config: TuneConfig) -> list[Point]:
    """The preset's, and those that are known before the search.

    Raises:
        InputError: a grid has more points than there are to be trials.
    """
    if config.searcher == "optuna":
        return [{}]
    if config.searcher == "random":
        found = drawn(config.space, config.trials, config.seed)
        # A population changes what each of its points holds; the preset's holds nothing.
        return found if config.scheduler == "pbt" else [{}, *found]
    points = grid(config.space)
    if len(points) > config.trials:
        raise InputError(
            f"trials={config.trials}: the grid has {len(points)} points; raise trials, or narrow the space"
        )
    return [{}, *points]


def num_trials(config: TuneConfig, points: list[Point]) -> int:
    """Of the whole search, given the points that are known before it."""
    return config.trials + 1 if config.searcher == "optuna" else len(points)
