"""MOVIES → a checkpoint: fit on the training split, thresholds and calibration on the validation split."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
import ray.train
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from mmgenre import ray_session as cluster
from mmgenre.dataset.rows import read_split
from mmgenre.errors import InputError
from mmgenre.models import FittedAtOnce, GenreModel, checkpoint
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.progress import printed_lines
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Output, Recipe
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.storage import absolute
from mmgenre.tables.table import Table
from mmgenre.training import features
from mmgenre.training import state as training_state
from mmgenre.training.mlflow_tracking import TRACKING, About, tracked
from mmgenre.training.ray_worker import Task, training_loop
from mmgenre.training.setup import (
    Fitted,
    TrainConfig,
    card_of,
    fit_config,
    fitted_at_once,
    fitted_in_epochs,
    resolved,
    splits,
    tower_cards,
    towers_of,
    untrained,
)
from mmgenre.training.state import Progress

_INITIAL = "initial"
_EPOCHS = "epochs"
_FEATURES = "features"
_TENSORBOARD = "tensorboard"
_HISTORY = "history.json"
# Of the settings, those that do not change what is made.
_FREE = (
    "dataset",
    "output",
    "overwrite",
    "features",
    "max_failures",
    "accelerator",
    "cpus_per_worker",
    "checkpoint_every",
    "tracking",
)
# Workers that come are let in at the next of these moments: it costs what was done since the last checkpoint.
_RESIZED_EVERY_S = 60.0
_OWNED = (CARD, WEIGHTS, ASSETS, _INITIAL, _EPOCHS, _FEATURES, _TENSORBOARD, _HISTORY, TRACKING)


def train(config: TrainConfig, callbacks: Sequence[UserCallback] = ()) -> Manifest:
    """Train, and write the checkpoint to `config.output`.

    Args:
        config: what, from what, and how.
        callbacks: Ray Train's, which hear of epochs.

    Raises:
        InputError: no complete MOVIES table, too few rows, a model that cannot be built, a used output, or no store
            to track it in.
    """
    table = Table(config.dataset, MOVIES)
    cards = tower_cards(config)
    towers, config = towers_of(config), resolved(config, cards)
    inputs = {"dataset": table.manifest.fingerprint} | {role: card.weights_sha256 for role, card in cards.items()}
    settings = config.to_settings(without=_FREE)
    output = Output(config.output, Recipe(job="train", settings=settings, inputs=inputs), _OWNED)
    found = output.finished()
    if found is not None:
        return found
    store = config.tracking.connect() if config.tracking else None
    output.begin(overwrite=config.overwrite, keep="unfinished")
    with tracked(store, _about(config, table)) as run:
        if isinstance(config.model, FittedAtOnce):
            fitted, progress = _fit_at_once(config.model, table), Progress()
        else:
            model = _initial_model(config, output.path(_INITIAL), table, towers)
            with run.hearing() as heard:
                fitted, progress = _fit_by_gradient(config, model, output, table, [*callbacks, *heard])
        card = card_of(config, table, fitted)
        checkpoint.save(fitted.model, card, config.output)
        run.finish(card, history=[epoch.model_dump() for epoch in progress.history])
    storage.write_bytes(output.path(_HISTORY), progress.model_dump_json(indent=2).encode())
    for leftover in (_INITIAL, _EPOCHS, _FEATURES):
        storage.delete(output.path(leftover))
    statuses = {"train": fitted.num_learned, "val": len(fitted.labels)}
    notes = {"val": card.scores, "epochs": progress.num_epochs}
    return output.complete(table.manifest.rows, statuses, notes, [CARD, WEIGHTS])


def describe(manifest: Manifest) -> str:
    """The scores of the validation split, and the manifest's line."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in manifest.notes["val"].items())
    return f"validation: {scores}\n{manifest}"


def _about(config: TrainConfig, table: Table) -> About:
    """What a store is told of the training when it begins."""
    settings = config.to_settings(without=("overwrite", "tracking"))
    tags = {
        "mmgenre.cli": "train",
        "mmgenre.family": config.model.family,
        "mmgenre.dataset.job": table.manifest.fingerprint,
    }
    return About(config.output, settings, tags)


def _fit_at_once(family: FittedAtOnce, table: Table) -> Fitted:
    train, val = (read_split(table, split, family) for split in ("train", "val"))
    cluster.connect()
    return ray.get(ray.remote(fitted_at_once).remote(family, train, val))


def _initial_model(config: TrainConfig, directory: str, table: Table, towers: dict[str, str]) -> GenreModel:
    """The untrained model, kept in a checkpoint: all workers, and the same training started again, begin with it.

    Built once, here, so that weights are fetched once and what cannot be had is said before workers start.
    """
    if CARD in storage.names_in(directory):
        return checkpoint.load(directory)[1]
    model = untrained(config, towers, table)
    checkpoint.save(model, Card.model_validate({"model": config.model}), directory)
    return model


def _fit_by_gradient(
    config: TrainConfig, model: GenreModel, output: Output, table: Table, callbacks: Sequence[UserCallback]
) -> tuple[Fitted, Progress]:
    cluster.connect()
    initial = output.path(_INITIAL)
    plan = features.Plan(config.features or output.path(_FEATURES), config.accelerator, config.precision, config.seed)
    encoded = splits(config, model, table, lambda part: features.compute(part, table, initial, plan))
    with printed_lines() as lines:
        task = Task(
            config=fit_config(config),
            initial=absolute(initial),
            splits=ray.put(encoded),
            full_size=config.most_workers,
            tensorboard=absolute(output.path(_TENSORBOARD)),
            lines=lines,
        )
        best, progress = _run_workers(config, task, callbacks)
    with best.as_directory() as folder:
        checkpoint.load_weights(model, Path(folder))
        logits = training_state.load_logits(Path(folder))
    return fitted_in_epochs(config, model, logits, encoded), progress


def _run_workers(
    config: TrainConfig, task: Task, callbacks: Sequence[UserCallback]
) -> tuple[ray.train.Checkpoint, Progress]:
    """Ray Train's part; returns the best epoch's checkpoint, and what all epochs brought."""
    cpus = config.cpus_per_worker or cluster.cpus_per_worker(config.fewest_workers, config.most_workers)
    use_gpu = cluster.use_gpu(config.accelerator)
    filesystem, path = storage.resolve(config.output)
    trainer = TorchTrainer(
        training_loop,
        train_loop_config={"task": task},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            elastic_resize_monitor_interval_s=_RESIZED_EVERY_S,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=_EPOCHS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=config.score),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=list(callbacks),
        ),
    )
    with _interruptible():
        result = trainer.fit()
    if isinstance(result.return_value, InputError):
        raise result.return_value
    whole = [kept for kept in result.best_checkpoints if config.score in kept[1]]
    epochs = sorted(whole, key=lambda kept: (-kept[1][config.score], kept[1]["epoch"]))
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
