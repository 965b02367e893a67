"""MOVIES → a checkpoint: fit on the training split, thresholds and calibration on the validation split."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import ray.train
import torch
from pydantic import Field
from ray.train.torch import TorchTrainer

from mmgenre import checkpoint, cluster, features, storage, training_state
from mmgenre.checkpoint import ASSETS, CARD, WEIGHTS, Alone, Card
from mmgenre.cluster import Accelerator
from mmgenre.errors import InputError
from mmgenre.inference import Precision, predict_logits
from mmgenre.manifest import Manifest, Output, Recipe
from mmgenre.metrics import held_out_scores
from mmgenre.models import Encoded, FittedAtOnce, FusionConfig, GenreModel, ModelConfig, TrainedByGradient, learn_edges
from mmgenre.progress import printed_lines
from mmgenre.schema import MOVIES
from mmgenre.splits import Rows, Split, encode, read_split
from mmgenre.storage import absolute
from mmgenre.tables import Table
from mmgenre.thresholds import calibrate, probabilities
from mmgenre.training_loop import FitConfig, Task, training_loop
from mmgenre.training_state import Progress

_INITIAL = "initial"
_EPOCHS = "epochs"
_FEATURES = "features"
_TENSORBOARD = "tensorboard"
_HISTORY = "history.json"
_OWNED = (CARD, WEIGHTS, ASSETS, _INITIAL, _EPOCHS, _FEATURES, _TENSORBOARD, _HISTORY)


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
    workers: int = Field(1, ge=1, description="processes that share each step (DDP)")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    max_failures: int = Field(3, ge=0, description="times the workers are started again after a crash")


def train(config: TrainConfig) -> Manifest:
    """Train, and write the checkpoint to `config.output`.

    Raises:
        InputError: no complete MOVIES table, too few rows, a model that cannot be built, or a used output.
    """
    table = Table(config.dataset, MOVIES)
    towers = config.model.checkpoints if isinstance(config.model, FusionConfig) else {}
    cards = {role: checkpoint.read_card(directory) for role, directory in towers.items()}
    config = _resolved(config, cards)
    inputs = {"dataset": table.manifest.fingerprint} | {role: card.weights_sha256 for role, card in cards.items()}
    settings = config.to_settings(without=("dataset", "output", "overwrite", "features", "max_failures", "accelerator"))
    output = Output(config.output, Recipe(job="train", settings=settings, inputs=inputs), _OWNED)
    found = output.begin(overwrite=config.overwrite, keep="unfinished")
    if found is not None:
        return found
    fitted = _fit(config, output, table, towers)
    card = _card(config, table, fitted)
    checkpoint.save(fitted.model, card, config.output)
    storage.write_bytes(output.path(_HISTORY), fitted.progress.model_dump_json(indent=2).encode())
    for leftover in (_INITIAL, _EPOCHS, _FEATURES):
        storage.delete(output.path(leftover))
    statuses = {"train": fitted.num_learned, "val": len(fitted.labels)}
    notes = {"val": card.scores, "epochs": len(fitted.progress.history)}
    return output.complete(table.manifest.rows, statuses, notes, [CARD, WEIGHTS])


def describe(manifest: Manifest) -> str:
    """The scores of the validation split, and the manifest's line."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in manifest.notes["val"].items())
    return f"validation: {scores}\n{manifest}"


@dataclass(frozen=True)
class _Fitted:
    """A trained model, and what it says of the validation movies that it can read.

    Args:
        model: with its best weights.
        logits: of N movies, shape (N, 9).
        labels: shape (N, 9).
        alone: logits and labels of those with a plot, and of those with a poster, when nothing else of them is seen,
            by the status of such predictions; of fusions only.
        progress: what the epochs brought.
        num_learned: movies learned from.
    """

    model: GenreModel
    logits: np.ndarray
    labels: np.ndarray
    alone: dict[Alone, tuple[np.ndarray, np.ndarray]]
    progress: Progress
    num_learned: int


def _resolved(config: TrainConfig, cards: dict[str, Card]) -> TrainConfig:
    """The same with the models that towers' checkpoints hold in place of the folders."""
    if not isinstance(config.model, FusionConfig):
        return config
    return config.model_copy(
        update={"model": config.model.resolved({role: card.model for role, card in cards.items()})}
    )


def _fit(config: TrainConfig, output: Output, table: Table, towers: dict[str, str]) -> _Fitted:
    if isinstance(config.model, FittedAtOnce):
        return _fit_at_once(config.model, table)
    model = _initial_model(config, output.path(_INITIAL), table, towers)
    return _fit_by_gradient(config, model, output, table)


def _fit_at_once(family: FittedAtOnce, table: Table) -> _Fitted:
    rows = {split: read_split(table, split, family) for split in ("train", "val")}
    cluster.connect()
    model = ray.get(ray.remote(_fit_task).remote(family, rows["train"]))
    val = encode(model.encoder, rows["val"])
    logits = predict_logits(model, val.movies, torch.device("cpu"))
    return _Fitted(model, logits, val.labels, {}, Progress(), len(rows["train"].labels))


def _fit_task(family: FittedAtOnce, rows: Rows) -> GenreModel:
    return family.fit(rows.movies, rows.labels).eval()


def _fit_by_gradient(config: TrainConfig, model: GenreModel, output: Output, table: Table) -> _Fitted:
    cluster.connect()
    splits = _splits(config, model, output, table)
    fit = FitConfig.model_validate({name: getattr(config, name) for name in FitConfig.model_fields})
    with printed_lines() as lines:
        task = Task(fit, absolute(output.path(_INITIAL)), ray.put(splits), absolute(output.path(_TENSORBOARD)), lines)
        best, progress = _run_workers(config, task)
    with best.as_directory() as folder:
        checkpoint.load_weights(model, Path(folder))
        logits = training_state.load_logits(Path(folder))
    alone = _alone(model.eval(), splits["val"], config.precision) if isinstance(config.model, FusionConfig) else {}
    return _Fitted(model, logits, splits["val"].labels, alone, progress, len(splits["train"].labels))


def _alone(model: GenreModel, val: Split, precision: Precision) -> dict[Alone, tuple[np.ndarray, np.ndarray]]:
    """See _Fitted; a kind of which there are no movies is left out."""
    seen: dict[Alone, tuple[Encoded, np.ndarray]] = {
        "text_only": (val.movies.only("text"), val.movies.has_text),
        "poster_only": (val.movies.only("image"), val.movies.has_image),
    }
    return {
        status: (predict_logits(model, movies, torch.device("cpu"), precision), val.labels[known])
        for status, (movies, known) in seen.items()
        if known.any()
    }


def _splits(config: TrainConfig, model: GenreModel, output: Output, table: Table) -> dict[str, Split]:
    """Movies to learn from and to validate with, as the model or what of it is not frozen reads them."""
    kept = features.kept_parts(model, config.model)
    if config.features == "none":
        if any(part.model.num_views for part in kept):
            raise InputError(
                "features=none: model.augment.views are kept as features; give a folder, or leave views out"
            )
        kept = []
    images_kept = any("image" in part.family.columns for part in kept)
    rows = {split: read_split(table, split, config.model, images=not images_kept) for split in ("train", "val")}
    if not kept:
        return {split: encode(model.encoder, found) for split, found in rows.items()}
    directory = config.features or output.path(_FEATURES)
    plan = features.Plan(directory, config.accelerator, config.precision, config.seed)
    tables = [(part, features.compute(part, table, output.path(_INITIAL), plan)) for part in kept]
    return {split: features.split_of(tables, model, found, views=split == "train") for split, found in rows.items()}


def _initial_model(config: TrainConfig, directory: str, table: Table, towers: dict[str, str]) -> GenreModel:
    """The untrained model, kept in a checkpoint: all workers, and the same training started again, begin with it.

    Built once, here, so that weights are fetched once and what cannot be had is said before workers start.
    """
    if CARD in storage.names_in(directory):
        return checkpoint.load(directory)[1]
    torch.manual_seed(config.seed)
    family, rows = config.model, read_split(table, "train", config.model, images=False)
    if isinstance(family, FusionConfig):
        trained = {role: checkpoint.load(tower)[1] for role, tower in towers.items()}
        model: GenreModel = family.join(trained, rows.movies)
    else:
        assert isinstance(family, TrainedByGradient)  # noqa: S101 - those fitted at once do not come here
        model = family.build(rows.movies)
    learn_edges(model, rows.labels)
    checkpoint.save(model, Card.model_validate({"model": family}), directory)
    return model


def _run_workers(config: TrainConfig, task: Task) -> tuple[ray.train.Checkpoint, Progress]:
    """Ray Train's part; returns the best epoch's checkpoint, and what all epochs brought."""
    use_gpu = cluster.use_gpu(config.accelerator)
    filesystem, path = storage.resolve(config.output)
    trainer = TorchTrainer(
        training_loop,
        train_loop_config={"task": task},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker(config.workers)} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=_EPOCHS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=config.score),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with _interruptible():
        result = trainer.fit()
    if isinstance(result.return_value, InputError):
        raise result.return_value
    epochs = sorted(result.best_checkpoints, key=lambda kept: (-kept[1][config.score], kept[1]["epoch"]))
    return epochs[0][0], result.return_value


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be an interruption: Ray Train takes the signal over, for good, and ends the process with 0."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


def _card(config: TrainConfig, table: Table, fitted: _Fitted) -> Card:
    calibration = calibrate(fitted.logits, fitted.labels, seed=config.seed)
    return Card(
        model=config.model,
        training=config.to_settings(without=("dataset", "output", "features", "model")),
        thresholds=calibration.thresholds,
        temperature=calibration.temperature,
        alone={
            status: calibrate(logits, labels, seed=config.seed) for status, (logits, labels) in fitted.alone.items()
        },
        scores=held_out_scores(probabilities(fitted.logits, calibration.temperature), fitted.labels),
        dataset=table.manifest.fingerprint,
    )
