"""MOVIES → a checkpoint: fit on the training split, thresholds and calibration on the validation split."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import ray
import ray.train
import torch
from pydantic import Field
from ray.train.torch import TorchTrainer

from mmgenre import checkpoint, cluster, storage, training_state
from mmgenre.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.cluster import Accelerator
from mmgenre.errors import InputError
from mmgenre.inference import predict_logits
from mmgenre.manifest import Manifest, Output, Recipe
from mmgenre.models import FittedAtOnce, GenreModel, ModelConfig, TrainedByGradient
from mmgenre.progress import printed_lines
from mmgenre.schema import MOVIES, from_per_genre
from mmgenre.storage import absolute
from mmgenre.tables import Table
from mmgenre.thresholds import fit_temperature, fit_thresholds, probabilities
from mmgenre.training_loop import FitConfig, Split, Task, training_loop, validation_scores
from mmgenre.training_state import Progress

_INITIAL = "initial"
_EPOCHS = "epochs"
_TENSORBOARD = "tensorboard"
_HISTORY = "history.json"
_OWNED = (CARD, WEIGHTS, ASSETS, _INITIAL, _EPOCHS, _TENSORBOARD, _HISTORY)


class TrainConfig(FitConfig):
    """Train one model on a MOVIES table."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the checkpoint; the same command goes on with an unfinished training")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    model: ModelConfig
    workers: int = Field(1, ge=1, description="processes that share each step (DDP)")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    max_failures: int = Field(3, ge=0, description="times the workers are started again after a crash")


def train(config: TrainConfig) -> Manifest:
    """Train, and write the checkpoint to `config.output`.

    Raises:
        InputError: no complete MOVIES table, too few rows, a model that cannot be built, or a used output.
    """
    table = Table(config.dataset, MOVIES)
    settings = config.to_settings(without=("dataset", "output", "overwrite", "max_failures", "accelerator"))
    output = Output(
        config.output, Recipe(job="train", settings=settings, inputs={"dataset": table.manifest.fingerprint}), _OWNED
    )
    found = output.begin(overwrite=config.overwrite, keep="unfinished")
    if found is not None:
        return found
    texts, labels = _read_split(table, "train", config.model)
    val_texts, val_labels = _read_split(table, "val", config.model)
    model, logits, history = _fit(config, output, (texts, labels), (val_texts, val_labels))
    card = _card(config, table, logits, val_labels)
    checkpoint.save(model, card, config.output)
    storage.write_bytes(output.path(_HISTORY), history.model_dump_json(indent=2).encode())
    for leftover in (_INITIAL, _EPOCHS):
        storage.delete(output.path(leftover))
    statuses = {"train": len(labels), "val": len(val_labels)}
    notes = {"val": card.scores, "epochs": len(history.history)}
    return output.complete(table.manifest.rows, statuses, notes, [CARD, WEIGHTS])


def describe(manifest: Manifest) -> str:
    """The scores of the validation split, and the manifest's line."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in manifest.notes["val"].items())
    return f"validation: {scores}\n{manifest}"


Rows = tuple[list[str], np.ndarray]
Fitted = tuple[GenreModel, np.ndarray, Progress]


def _read_split(table: Table, split: str, model: ModelConfig) -> Rows:
    """Texts and labels (N, 9) of the movies of a split that have a plot, ordered by id whatever the files' order."""
    rows = table.read(
        ["imdb_id", "title", "plot", "labels"], (pc.field("split") == split) & pc.field("plot").is_valid()
    )
    if rows.num_rows == 0:
        raise InputError(f"{table.directory}: no {split} rows with a plot; train needs train and val rows")
    rows = rows.sort_by("imdb_id")
    return model.texts(rows["title"].to_pylist(), rows["plot"].to_pylist()), from_per_genre(rows["labels"])


def _fit(config: TrainConfig, output: Output, train_rows: Rows, val_rows: Rows) -> Fitted:
    if isinstance(config.model, FittedAtOnce):
        return _fit_at_once(config.model, train_rows, val_rows)
    return _fit_by_gradient(config, config.model, output, {"train": train_rows, "val": val_rows})


def _fit_at_once(family: FittedAtOnce, train_rows: Rows, val_rows: Rows) -> Fitted:
    cluster.connect()
    model = ray.get(ray.remote(_fit_task).remote(family, *train_rows))
    logits = predict_logits(model, model.encoder.encode(val_rows[0]), torch.device("cpu"))
    return model, logits, Progress()


def _fit_task(family: FittedAtOnce, plots: list[str], labels: np.ndarray) -> GenreModel:
    return family.fit(plots, labels).eval()


def _fit_by_gradient(config: TrainConfig, family: TrainedByGradient, output: Output, rows: dict[str, Rows]) -> Fitted:
    model = _initial_model(config.seed, family, output.path(_INITIAL), rows["train"][0])
    cluster.connect()
    splits = {name: Split(model.encoder.encode(plots), labels) for name, (plots, labels) in rows.items()}
    fit = FitConfig.model_validate({name: getattr(config, name) for name in FitConfig.model_fields})
    with printed_lines() as lines:
        task = Task(fit, absolute(output.path(_INITIAL)), ray.put(splits), absolute(output.path(_TENSORBOARD)), lines)
        best = _run_workers(config, task)
    with best.as_directory() as folder:
        checkpoint.load_weights(model, Path(folder))
        return model.eval(), training_state.load_logits(Path(folder)), training_state.read_progress(Path(folder))


def _initial_model(seed: int, family: TrainedByGradient, directory: str, plots: list[str]) -> GenreModel:
    """The untrained model, kept in a checkpoint: all workers, and the same training started again, begin with it.

    Built once, here, so that weights are fetched once and what cannot be had is said before workers start.
    """
    if CARD in storage.names_in(directory):
        return checkpoint.load(directory)[1]
    torch.manual_seed(seed)
    model = family.build(plots)
    checkpoint.save(model, Card.model_validate({"model": family}), directory)
    return model


def _run_workers(config: TrainConfig, task: Task) -> ray.train.Checkpoint:
    """Ray Train's part; returns the best epoch's checkpoint."""
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
    if result.return_value is not None:
        raise InputError(result.return_value)
    epochs = sorted(result.best_checkpoints, key=lambda kept: (-kept[1][config.score], kept[1]["epoch"]))
    return epochs[0][0]


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


def _card(config: TrainConfig, table: Table, logits: np.ndarray, labels: np.ndarray) -> Card:
    temperature = fit_temperature(logits, labels)
    return Card(
        model=config.model,
        training=config.to_settings(without=("dataset", "output", "model")),
        thresholds=fit_thresholds(probabilities(logits, temperature), labels, seed=config.seed),
        temperature=temperature,
        scores=validation_scores(logits, labels),
        dataset=table.manifest.fingerprint,
    )
