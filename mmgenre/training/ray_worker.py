"""What every worker of Ray Train runs: a fit shared by all of them, and a checkpoint after each epoch."""

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

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.training.state import Progress
from mmgenre.training.trainer import Fit, FitConfig, Team


@dataclass(frozen=True)
class Task:
    """All that a worker needs.

    Args:
        config: how to fit.
        initial: checkpoint folder with the untrained model.
        splits: reference to {"train": Split, "val": Split} in the object store.
        full_size: workers when all have come.
        tensorboard: folder for TensorBoard's event files.
        lines: takes what the person at the terminal should read.
    """

    config: FitConfig
    initial: str
    splits: Any
    full_size: int
    tensorboard: str
    lines: Queue


def training_loop(arguments: dict[str, Task]) -> Progress | InputError:
    """Run by each worker of Ray Train; goes on from the last epoch that was reported.

    Returns what all epochs brought, or a person's mistake instead of raising it: workers that raise are started again.
    """
    try:
        fit = _begun(arguments["task"])
        while fit.wants_another_epoch():
            logits = fit.run_epoch(keep=partial(_report, fit))
            _report(fit, logits)
    except InputError as mistake:
        return mistake
    return fit.progress


def _begun(task: Task) -> Fit:
    context = ray.train.get_context()
    team = Team(ray.train.torch.get_device(), context.get_world_rank(), context.get_world_size(), task.full_size)
    torch.set_num_threads(cluster.assigned_cpus())
    fit = Fit(task.config, checkpoint.load(task.initial)[1], ray.get(task.splits), team)
    found = ray.train.get_checkpoint()
    if found is not None:
        with found.as_directory() as folder:
            fit.restore(Path(folder))
    if team.rank == 0:
        fit.keep_journal(task.tensorboard, task.lines)
    return fit


def _report(fit: Fit, logits: np.ndarray | None = None) -> None:
    """Hand Ray Train a checkpoint: after an epoch, with its figures, or within one, without any."""
    metrics = {} if logits is None else fit.progress.history[-1].model_dump()
    if ray.train.get_context().get_world_rank() > 0:
        ray.train.report(metrics)
        return
    with TemporaryDirectory() as temporary:
        fit.save(Path(temporary), logits)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(temporary))
