"""The training loop that each Ray Train worker runs, and the checkpoints it reports."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from mmgenre import ray_session
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.training.config import FitConfig
from mmgenre.training.state import TrainingProgress
from mmgenre.training.trainer import DivergedError, ProcessGroup, Trainer


@dataclass(frozen=True)
class WorkerArguments:
    """What a worker needs to train.

    Args:
        config: hyperparameters.
        initial: checkpoint folder of the untrained model.
        splits: object-store reference to {"train": Split, "val": Split}.
        full_size: number of workers at full strength.
        tensorboard: folder for TensorBoard event files.
        events: queue to the driver, for progress lines (str) and the EpochMetrics of reported epochs.
    """

    config: FitConfig
    initial: str
    splits: Any
    full_size: int
    tensorboard: str
    events: Queue


def train_loop_per_worker(config: dict[str, WorkerArguments]) -> TrainingProgress | InputError:
    """Train until finished, from the last reported checkpoint on.

    Returns:
        The progress of all epochs; a training that diverges keeps its earlier ones. An InputError is returned instead
        of raised, because Ray Train would restart a worker that raises.
    """
    try:
        arguments = config["arguments"]
        trainer = _resumed_trainer(arguments)
        while not trainer.is_finished:
            logits = trainer.run_epoch(save_partial=partial(_report, trainer))
            _report(trainer, logits)
            if ray.train.get_context().get_world_rank() == 0:
                arguments.events.put(trainer.progress.history[-1])
    except DivergedError as error:
        return trainer.progress.after_divergence(error) if trainer.progress.history else error
    except InputError as error:
        return error
    return trainer.progress


def _resumed_trainer(arguments: WorkerArguments) -> Trainer:
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(ray_session.assigned_cpus())
    group = ProcessGroup(ray.train.torch.get_device(), rank, size, arguments.full_size)
    model = checkpoint.load(arguments.initial)[1]
    trainer = Trainer(arguments.config, model, ray.get(arguments.splits), group)
    last_checkpoint = ray.train.get_checkpoint()
    if last_checkpoint is not None:
        with last_checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
    if rank == 0:
        trainer.start_log(arguments.tensorboard, arguments.events)
    return trainer


def _report(trainer: Trainer, logits: np.ndarray | None = None) -> None:
    """Report a checkpoint to Ray Train; a finished epoch has logits and metrics, a partial one neither."""
    metrics = {} if logits is None else trainer.progress.history[-1].model_dump()
    if ray.train.get_context().get_world_rank() > 0:
        ray.train.report(metrics)
        return
    with TemporaryDirectory() as folder:
        trainer.save(Path(folder), logits)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
