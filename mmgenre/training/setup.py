"""What every training begins with and ends in: its config, the untrained model, encoded movies; a calibrated card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from mmgenre.dataset.rows import Rows, Split, encode, read_split
from mmgenre.errors import InputError
from mmgenre.models import (
    Encoded,
    FittedAtOnce,
    FusionConfig,
    GenreModel,
    ModelConfig,
    TrainedByGradient,
    checkpoint,
    learn_edges,
)
from mmgenre.models.checkpoint import Alone, Card
from mmgenre.models.inference import Precision, predict_logits
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.metrics import held_out_scores
from mmgenre.scoring.thresholds import calibrate, probabilities
from mmgenre.tables.table import Table
from mmgenre.training import features
from mmgenre.training.features import KeptPart
from mmgenre.training.mlflow_store import MlflowConfig
from mmgenre.training.trainer import FitConfig

Workers = Annotated[int, Field(ge=1)]


class TrainConfig(FitConfig):
    """Train one model on a MOVIES table."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the checkpoint; the same command goes on with an unfinished training")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    model: ModelConfig
    features: str | None = Field(
        None,
        description="folder for what frozen layers make of each movie, shared by trainings; null: one that is deleted "
        "in the end; none: computed again in each epoch",
    )
    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="processes that share each step (DDP); [fewest, most]: as many of them as there is room for, now "
        "and when nodes come and go",
    )
    cpus_per_worker: int | None = Field(None, ge=1, description="null: an equal share of the cluster's")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    max_failures: int = Field(3, ge=0, description="times the workers are started again after a crash")
    tracking: MlflowConfig | None = Field(
        None, description="a store for settings, epochs and what comes of them, beside TensorBoard's files; null: none"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.fewest_workers > self.most_workers:
            raise ValueError(f"workers=[{self.fewest_workers}, {self.most_workers}]: the fewest come first")
        return self

    @property
    def fewest_workers(self) -> int:
        """Without which it waits."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Whose batches make up a step."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True)
class Fitted:
    """A trained model, and what it says of the validation movies that it can read.

    Args:
        model: with its best weights.
        logits: of N movies, shape (N, 9).
        labels: shape (N, 9).
        num_learned: movies learned from.
        alone: logits and labels of those with a plot, and of those with a poster, when nothing else of them is seen,
            by the status of such predictions; of fusions only.
    """

    model: GenreModel
    logits: np.ndarray
    labels: np.ndarray
    num_learned: int
    alone: dict[Alone, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def towers_of(config: TrainConfig) -> dict[str, str]:
    """Folders of the trained models that a fusion joins, by role; none for any other model."""
    return config.model.checkpoints if isinstance(config.model, FusionConfig) else {}


def tower_cards(config: TrainConfig) -> dict[str, Card]:
    """Their cards, by role."""
    return {role: checkpoint.read_card(directory) for role, directory in towers_of(config).items()}


def resolved(config: TrainConfig, cards: Mapping[str, Card]) -> TrainConfig:
    """The same with the models that towers' checkpoints hold in place of the folders."""
    if not isinstance(config.model, FusionConfig):
        return config
    return config.model_copy(
        update={"model": config.model.resolved({role: card.model for role, card in cards.items()})}
    )


def splits(
    config: TrainConfig,
    model: GenreModel,
    table: Table,
    compute: Callable[[KeptPart], Table],
    learned: Sequence[str] = ("train",),
) -> dict[str, Split]:
    """Movies to learn from ("train") and to validate with ("val"), as the model or what of it is not frozen reads them.

    Args:
        config: resolved.
        model: untrained.
        table: of the schema MOVIES.
        compute: makes the table of features of a part that has frozen layers.
        learned: splits of the table whose movies are learned from.

    Raises:
        InputError: too few rows, or changed views that are not to be kept.
    """
    kept = features.kept_parts(model, config.model)
    if config.features == "none":
        if any(part.model.num_views for part in kept):
            raise InputError(
                "features=none: model.augment.views are kept as features; give a folder, or leave views out"
            )
        kept = []
    images_kept = any("image" in part.family.columns for part in kept)
    names = {"train": learned, "val": "val"}
    rows = {role: read_split(table, split, config.model, images=not images_kept) for role, split in names.items()}
    if not kept:
        return {name: encode(model.encoder, found) for name, found in rows.items()}
    tables = [(part, compute(part)) for part in kept]
    return {name: features.split_of(tables, model, found, views=name == "train") for name, found in rows.items()}


def untrained(config: TrainConfig, towers: Mapping[str, str], table: Table) -> GenreModel:
    """The model to begin with; the same each time it is built.

    Args:
        config: resolved.
        towers: folders of the trained models that a fusion joins, by role.
        table: of the schema MOVIES.

    Raises:
        InputError: it cannot be built.
    """
    torch.manual_seed(config.seed)
    family, rows = config.model, read_split(table, "train", config.model, images=False)
    if isinstance(family, FusionConfig):
        trained = {role: checkpoint.load(directory)[1] for role, directory in towers.items()}
        model: GenreModel = family.join(trained, rows.movies)
    else:
        assert isinstance(family, TrainedByGradient)  # noqa: S101 - those fitted at once do not come here
        model = family.build(rows.movies)
    learn_edges(model, rows.labels)
    return model


def fitted_at_once(family: FittedAtOnce, train: Rows, val: Rows) -> Fitted:
    """A model with a closed fit, and what it says of the validation movies."""
    model = family.fit(train.movies, train.labels).eval()
    encoded = encode(model.encoder, val)
    logits = predict_logits(model, encoded.movies, torch.device("cpu"))
    return Fitted(model, logits, encoded.labels, len(train.labels))


def fitted_in_epochs(config: TrainConfig, model: GenreModel, logits: np.ndarray, encoded: dict[str, Split]) -> Fitted:
    """A model with its best weights, whose epochs' validation logits are known."""
    model, val = model.eval(), encoded["val"]
    alone = _alone(model, val, config.precision) if isinstance(config.model, FusionConfig) else {}
    return Fitted(model, logits, val.labels, len(encoded["train"].labels), alone)


def fit_config(config: TrainConfig) -> FitConfig:
    """What of a training's config is about epochs and steps."""
    return FitConfig.model_validate({name: getattr(config, name) for name in FitConfig.model_fields})


def card_of(config: TrainConfig, table: Table, fitted: Fitted) -> Card:
    """The card of a fitted model: calibrated on the validation movies, scored on them at held-out thresholds."""
    calibration = calibrate(fitted.logits, fitted.labels, seed=config.seed)
    return Card(
        model=config.model,
        training=config.to_settings(without=("dataset", "output", "features", "model", "tracking")),
        thresholds=calibration.thresholds,
        temperature=calibration.temperature,
        alone={
            status: calibrate(logits, labels, seed=config.seed) for status, (logits, labels) in fitted.alone.items()
        },
        scores=held_out_scores(probabilities(fitted.logits, calibration.temperature), fitted.labels),
        dataset=table.manifest.fingerprint,
    )


def _alone(model: GenreModel, val: Split, precision: Precision) -> dict[Alone, tuple[np.ndarray, np.ndarray]]:
    """See Fitted; a kind of which there are no movies is left out."""
    seen: dict[Alone, tuple[Encoded, np.ndarray]] = {
        "text_only": (val.movies.only("text"), val.movies.has_text),
        "poster_only": (val.movies.only("image"), val.movies.has_image),
    }
    return {
        status: (predict_logits(model, movies, torch.device("cpu"), precision), val.labels[known])
        for status, (movies, known) in seen.items()
        if known.any()
    }
