"""Config of a search, and the training that its trials vary."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from mmgenre.config import Config, Requirements, assign, read_yaml
from mmgenre.errors import InputError
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.metrics import Objective
from mmgenre.search.space import Distribution, Point, grid, random_points
from mmgenre.tables import storage
from mmgenre.training.mlflow_tracking import MlflowConfig

FEATURES, TRACKING = "features", "tracking"


class TuneConfig(Config):
    """Search hyperparameters of a training."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the search; an unfinished search in it is resumed")
    overwrite: bool = Field(False, description="replace an output made with another configuration")
    preset: str = Field(description="YAML file of the training to start from; it is also run as the first trial")
    fixed: dict[str, Any] = Field(
        default_factory=dict, description="preset fields to change in all trials, such as fixed.epochs=9"
    )
    space: dict[str, Distribution] = Field(min_length=1, description="preset fields that trials vary, by dotted path")
    trials: int = Field(12, ge=1, description="trials besides the preset; raise it to extend a finished search")
    searcher: Literal["random", "grid", "optuna"] = Field("random", description="optuna: TPE, needs the extra `optuna`")
    scheduler: Literal["none", "asha", "median"] = Field("none", description="early stopping of poor trials")
    grace_epochs: int = Field(1, ge=1, description="epochs before the scheduler may stop a trial")
    reduction_factor: float = Field(3, gt=1, description="asha: one in this many trials is promoted at each rung")
    objective: Objective = Field("macro_f1", description="validation score to maximise, at held-out thresholds")
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0, description="null: 1 if the cluster has GPUs, else 0")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; null: as many as fit the cluster")
    max_seconds: float | None = Field(None, gt=0, description="time limit of one run; the next run resumes the trials")
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose process died")
    accelerator: Accelerator = Field("auto", description="auto: GPUs if a node has one now; gpu: wait for one")
    refit: bool = Field(False, description="retrain the best point on train and validation movies together")
    seed: int = Field(0, ge=0, description="seed of the sampled points")
    tracking: MlflowConfig | None = Field(
        None, description="MLflow store with a run for the search and nested runs for its trials; null: the preset's"
    )

    @field_validator("space", mode="before")
    @classmethod
    def _by_path(cls, space: Any) -> Any:
        """Accept nested fields too: `space.model.c.low=0.5` on the command line nests."""
        if not isinstance(space, dict):
            return space
        by_path: dict[str, Any] = {}
        for leaf, value in _flatten(space):
            path, _, name = leaf.rpartition(".")
            by_path |= {path: by_path.get(path, {}) | {name: value}} if path else {leaf: value}
        return by_path

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        needs = Requirements(
            inputs=(self.dataset,),
            outputs=(self.output,),
            cpus=self.cpus_per_trial,
            gpus=self.gpus_per_trial or 0,
            packages=(*(("optuna",) if self.searcher == "optuna" else ()), *(("mlflow",) if self.tracking else ())),
        )
        return (needs,)


def preset_of(config: TuneConfig) -> dict[str, Any]:
    """Fields of the training that trials vary."""
    values = read_yaml(Path(config.preset))
    for path, value in _flatten(config.fixed):
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
        # The search tracks its trials itself.
        TRACKING: None,
    }


def tracking_of(config: TuneConfig) -> MlflowConfig | None:
    """The store of the search, or else of its preset.

    Raises:
        InputError: the preset's `tracking` is invalid.
    """
    values = read_yaml(Path(config.preset)).get(TRACKING)
    if config.tracking is not None or values is None:
        return config.tracking
    if not isinstance(values, dict):
        raise InputError(f"{config.preset}: tracking: found {values!r}; expected the fields of a store")
    return MlflowConfig.parse(values, where=f"{config.preset}: tracking")


def initial_points(config: TuneConfig) -> list[Point]:
    """The preset (an empty point), and the points of a random or grid search; Optuna suggests its points later.

    Raises:
        InputError: the grid has more points than `trials`.
    """
    if config.searcher == "optuna":
        return [{}]
    if config.searcher == "random":
        return [{}, *random_points(config.space, config.trials, config.seed)]
    points = grid(config.space)
    if len(points) > config.trials:
        raise InputError(f"trials={config.trials}: the grid has {len(points)} points; raise trials or shrink the space")
    return [{}, *points]


def num_trials(config: TuneConfig, points: list[Point]) -> int:
    """Number of trials of the whole search, given its initial points."""
    return config.trials + 1 if config.searcher == "optuna" else len(points)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of nested fields; fields that are dotted already stay so."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
