"""The train job: MOVIES in, a checkpoint out, with thresholds and calibration fitted on the validation split."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchTrainer

from mmgenre import ray_session
from mmgenre.dataset.rows import Rows
from mmgenre.errors import InputError
from mmgenre.models import DirectlyFittedConfig, checkpoint
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.progress import consumed_queue
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.storage import absolute
from mmgenre.training import state
from mmgenre.training.config import TrainConfig
from mmgenre.training.fitted_model import FittedModel
from mmgenre.training.mlflow_tracking import RUN_FILE, tracked
from mmgenre.training.ray_worker import WorkerArguments, train_loop_per_worker
from mmgenre.training.setup import TrainingSetup
from mmgenre.training.state import EpochMetrics, TrainingProgress

_INITIAL = "initial"
_EPOCHS = "epochs"
_FEATURES = "features"
_TENSORBOARD = "tensorboard"
_HISTORY = "history.json"
# Settings that do not change the result.
_NOT_IN_RECIPE = (
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
# Elastic training checks this often whether more workers fit; a resize loses the steps since the last checkpoint.
_RESIZE_INTERVAL_S = 60.0
_OWNED = (CARD, WEIGHTS, ASSETS, _INITIAL, _EPOCHS, _FEATURES, _TENSORBOARD, _HISTORY, RUN_FILE)

EpochHandler = Callable[[EpochMetrics], None]


def train(config: TrainConfig, on_epoch: EpochHandler = lambda epoch: None) -> Manifest:
    """Train a model and write its checkpoint to `config.output`; resumes an unfinished training there.

    Args:
        config: what to train, on what and how.
        on_epoch: called in this process, on another thread, for each epoch that the workers finish.

    Raises:
        InputError: the MOVIES table is incomplete or too small, the model cannot be built, the output is in use, or
            the MLflow store does not answer.
    """
    setup = TrainingSetup(config, features_dir=storage.join(config.output, _FEATURES))
    settings = setup.config.to_settings(without=_NOT_IN_RECIPE)
    recipe = Recipe(job="train", settings=settings, inputs=setup.fingerprints)
    output = Output(config.output, recipe, _OWNED, mode="resume", overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    store = config.tracking.connect() if config.tracking else None
    dataset = setup.fingerprints["dataset"]
    tags = {"mmgenre.job": "train", "mmgenre.family": config.model.family, "mmgenre.dataset": dataset}
    parameters = setup.config.to_settings(without=("overwrite", "tracking"))
    with output:
        with tracked(store, config.output, parameters, tags) as run:

            def handle(epoch: EpochMetrics) -> None:
                run.log_epochs([epoch.model_dump()])
                on_epoch(epoch)

            fitted, progress = _fit(setup, output, handle)
            card = fitted.card(setup.config, dataset)
            checkpoint.save(fitted.model, card, config.output)
            run.log_result(card, config.output, history=[epoch.model_dump() for epoch in progress.history])
        output.write(_HISTORY, progress.to_json().encode())
        for leftover in (_INITIAL, _EPOCHS, _FEATURES):
            storage.delete(output.path(leftover))
        statuses = {"train": fitted.num_train, "val": len(fitted.labels)}
        notes = {
            "val": card.scores,
            "epochs": progress.num_epochs,
            "status": progress.status,
            "detail": progress.detail,
        }
        return output.complete(setup.table.manifest.rows, statuses, notes, [CARD, WEIGHTS])


def describe(manifest: Manifest) -> str:
    """Validation scores, and the manifest's summary line."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in manifest.notes["val"].items())
    kept = ""
    if manifest.notes.get("status") == "diverged":
        kept = f"{manifest.notes['detail']}; the best of the {manifest.notes['epochs']} epochs before is kept\n"
    return f"{kept}validation: {scores}\n{manifest}"


def _fit(setup: TrainingSetup, output: Output, on_epoch: EpochHandler) -> tuple[FittedModel, TrainingProgress]:
    family = setup.config.model
    if isinstance(family, DirectlyFittedConfig):
        rows = setup.rows()
        ray_session.connect()
        return ray.get(_fit_in_closed_form.remote(family, rows)), TrainingProgress()
    initial = output.path(_INITIAL)
    if CARD in storage.names_in(initial):
        # Also reads weights that came from a hub when this training first started.
        setup.model = checkpoint.load(initial)[1]
    else:
        checkpoint.save(setup.model, Card.model_validate({"model": family}), initial)
    return _fit_by_gradient(setup, output, on_epoch)


@ray.remote
def _fit_in_closed_form(family: DirectlyFittedConfig, rows: dict[str, Rows]) -> FittedModel:
    return FittedModel.in_closed_form(family, rows)


def _fit_by_gradient(
    setup: TrainingSetup, output: Output, on_epoch: EpochHandler
) -> tuple[FittedModel, TrainingProgress]:
    ray_session.connect()
    config, initial = setup.config, output.path(_INITIAL)
    splits = setup.splits(initial=initial)

    def handle(event: EpochMetrics | str) -> None:
        if isinstance(event, EpochMetrics):
            on_epoch(event)
        else:
            print(event, flush=True)  # noqa: T201 - progress lines are for the terminal

    with consumed_queue(handle) as events:
        arguments = WorkerArguments(
            config=config.fit_config,
            initial=absolute(initial),
            splits=ray.put(splits),
            full_size=config.max_workers,
            tensorboard=absolute(output.path(_TENSORBOARD)),
            events=events,
        )
        best_checkpoint, progress = _run_workers(config, arguments)
    with best_checkpoint.as_directory() as folder:
        checkpoint.load_weights(setup.model, Path(folder))
        logits = state.load_logits(Path(folder))
    return FittedModel.from_epochs(config, setup.model, logits, splits), progress


def _run_workers(config: TrainConfig, arguments: WorkerArguments) -> tuple[ray.train.Checkpoint, TrainingProgress]:
    """Train on Ray Train workers; returns the best epoch's checkpoint, and the progress of all epochs."""
    use_gpu = ray_session.use_gpu(config.accelerator)
    cpus = config.cpus_per_worker or ray_session.cpus_per_worker(
        config.min_workers, config.max_workers, with_gpu=use_gpu
    )
    filesystem, path = storage.resolve(config.output)
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"arguments": arguments},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            elastic_resize_monitor_interval_s=_RESIZE_INTERVAL_S,
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
        ),
    )
    with _sigint_as_interrupt():
        result = trainer.fit()
    if isinstance(result.return_value, InputError):
        raise result.return_value
    # Checkpoints within an epoch have no score.
    epochs = [(saved, metrics) for saved, metrics in result.best_checkpoints if config.score in metrics]
    best, _ = max(epochs, key=lambda epoch: (epoch[1][config.score], -epoch[1]["epoch"]))
    return best, result.return_value


@contextlib.contextmanager
def _sigint_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Ray Train turns into an exit with code 0, and restore the handler."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
