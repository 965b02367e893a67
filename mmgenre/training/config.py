"""Config of a training job, and of the training loop inside it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from mmgenre.config import Config, Requirements
from mmgenre.models import FusionConfig, ModelConfig
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.metrics import Objective
from mmgenre.training.mlflow_tracking import MlflowConfig
from mmgenre.training.optimizer import OptimizerConfig

NumWorkers = Annotated[int, Field(ge=1)]


class FitConfig(Config):
    """Hyperparameters of the training loop."""

    epochs: int = Field(5, ge=1, description="maximum number of passes over the training rows")
    batch_size: int = Field(16, ge=1, description="rows per micro-batch, on each worker")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimizer step, on each worker")
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Precision = Field("auto", description="auto: bf16 where the hardware supports it, else fp32")
    score: Objective = Field("mean_average_precision", description="validation score that selects the best epoch")
    patience: int = Field(3, ge=1, description="epochs without a better score before training stops")
    seed: int = Field(0, ge=0, description="seed of weights, row order and dropout")
    checkpoint_every: int | None = Field(
        None, ge=1, description="optimizer steps between checkpoints within an epoch; null: one after each epoch"
    )


class TrainConfig(FitConfig):
    """Train one model on a MOVIES table."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the checkpoint; an unfinished training in it is resumed")
    overwrite: bool = Field(False, description="replace an output made with another configuration")
    model: ModelConfig
    features: str | None = Field(
        None,
        description="folder that caches the outputs of frozen layers, shared by trainings; null: a cache deleted at "
        "the end; none: no cache, computed again in each epoch",
    )
    workers: NumWorkers | tuple[NumWorkers, NumWorkers] = Field(
        1,
        description="data-parallel worker processes (DDP); [min, max]: elastic, as many as the cluster has room for "
        "while nodes come and go",
    )
    cpus_per_worker: int | None = Field(None, ge=1, description="null: an equal share of the cluster's CPUs")
    accelerator: Accelerator = Field("auto", description="auto: GPUs if a node has one now; gpu: wait for one")
    max_failures: int = Field(3, ge=0, description="worker restarts after crashes before the training fails")
    tracking: MlflowConfig | None = Field(
        None, description="MLflow store for settings, epochs and results, beside the TensorBoard files; null: none"
    )

    @model_validator(mode="after")
    def _check_worker_range(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"workers=[{self.min_workers}, {self.max_workers}]: expected [min, max] with min <= max")
        return self

    @property
    def min_workers(self) -> int:
        """Workers that the training waits for before it starts."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Workers at full strength; each optimizer step covers the batches of this many."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fit_config(self) -> FitConfig:
        """The fields that the training loop needs."""
        return FitConfig.model_validate({name: getattr(self, name) for name in FitConfig.model_fields})

    @property
    def tower_checkpoints(self) -> dict[str, str]:
        """Folders of the trained models that a fusion joins, by role; empty for any other model."""
        return self.model.checkpoints if isinstance(self.model, FusionConfig) else {}

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        features = None if self.features == "none" else self.features
        needs = Requirements(
            inputs=(self.dataset, *self.tower_checkpoints.values()),
            outputs=(self.output, features),
            cpus=self.min_workers * (self.cpus_per_worker or 1),
            gpus=self.min_workers * (self.accelerator == "gpu"),
            packages=("mlflow",) if self.tracking else (),
        )
        return (needs,)
