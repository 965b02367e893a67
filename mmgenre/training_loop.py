"""What every training worker runs: epochs of DDP steps, validation of every row once, a checkpoint after each epoch."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from pydantic import Field
from ray.util.queue import Queue
from torch.nn.functional import binary_cross_entropy_with_logits

from mmgenre import checkpoint, cluster, training_state
from mmgenre.batches import Plan, Step
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.genres import GENRES
from mmgenre.inference import Precision, autocast, predict_logits, to_device
from mmgenre.journal import Extent, Journal
from mmgenre.metrics import Objective, held_out_scores
from mmgenre.models import GenreModel
from mmgenre.optimizer import OptimizerConfig
from mmgenre.thresholds import probabilities
from mmgenre.training_state import Epoch, Progress


class FitConfig(Config):
    """How a model is fitted by gradient."""

    epochs: int = Field(5, ge=1, description="passes over the training rows, at the most")
    batch_size: int = Field(16, ge=1, description="rows of one worker computed at once")
    accumulate: int = Field(1, ge=1, description="batches in one optimizer step")
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Precision = Field("auto", description="auto: bf16 where the hardware computes in it, else fp32")
    score: Objective = Field(
        "mean_average_precision", description="of the validation split; the epoch with the best is kept"
    )
    patience: int = Field(3, ge=1, description="epochs without a better score after which training stops")
    seed: int = Field(0, ge=0, description="of weights, order and dropout")


@dataclass(frozen=True)
class Task:
    """All that a worker needs.

    Args:
        config: how to fit.
        initial: checkpoint folder with the untrained model.
        splits: reference to {"train": Split, "val": Split} in the object store.
        tensorboard: folder for TensorBoard's event files.
        lines: takes what the person at the terminal should read.
    """

    config: FitConfig
    initial: str
    splits: Any
    tensorboard: str
    lines: Queue


def training_loop(arguments: dict[str, Task]) -> Progress | InputError:
    """Run by each worker of Ray Train; goes on from the last epoch that was reported.

    Returns what all epochs brought, or a person's mistake instead of raising it: workers that raise are started again.
    """
    try:
        worker = _Worker(arguments["task"])
        while worker.wants_another_epoch():
            worker.run_epoch()
    except InputError as mistake:
        return mistake
    return worker.progress


class _Worker:
    def __init__(self, task: Task):
        context = ray.train.get_context()
        self._config = task.config
        self._rank, self._world = context.get_world_rank(), context.get_world_size()
        self._device = ray.train.torch.get_device()
        torch.set_float32_matmul_precision("high")
        torch.set_num_threads(cluster.assigned_cpus())
        splits = ray.get(task.splits)
        self._train, self._val = splits["train"], splits["val"]
        self._plan = Plan(task.config.batch_size, task.config.accumulate, self._world, task.config.seed)
        self._steps_per_epoch = self._plan.num_steps(len(self._train.labels))
        self._model: GenreModel = checkpoint.load(task.initial)[1]
        self._model.to(self._device)
        self._optimizer, self._schedule = task.config.optimizer.build(
            self._model, task.config.epochs * self._steps_per_epoch
        )
        self.progress = self._resume()
        self._parallel: Any = ray.train.torch.prepare_model(self._model, move_to_device=False)
        extent = Extent(task.config.epochs, self._steps_per_epoch)
        self._journal = (
            Journal(task.tensorboard, task.lines, extent, self.progress.num_epochs * self._steps_per_epoch)
            if self._rank == 0
            else None
        )

    def _resume(self) -> Progress:
        found = ray.train.get_checkpoint()
        if found is None:
            return Progress()
        with found.as_directory() as folder:
            return training_state.load(Path(folder), self._model, self._optimizer, self._schedule)

    def wants_another_epoch(self) -> bool:
        exhausted = self.progress.exhausted(self._config.score, self._config.patience)
        return self.progress.num_epochs < self._config.epochs and not exhausted

    def run_epoch(self) -> None:
        began = time.monotonic()
        number = self.progress.num_epochs
        # Seeded by epoch, so that an epoch run again after a crash is the same epoch.
        torch.manual_seed(hash((self._config.seed, number, self._rank)) % 2**31)
        self._parallel.train()
        loss = 0.0
        for index, step in enumerate(self._plan.steps(self._train.movies.lengths, number, self._rank)):
            loss += self._step(step, number * self._steps_per_epoch + index) * step.num_rows
        learned = time.monotonic()
        logits = self._validate()
        epoch = Epoch(
            epoch=number + 1,
            loss=loss / len(self._train.labels),
            rows_per_second=len(self._train.labels) / (learned - began),
            seconds=time.monotonic() - began,
            **_validation_figures(logits, self._val.labels),
        )
        self.progress = Progress(history=(*self.progress.history, epoch))
        self._report(logits)
        if self._journal is not None:
            self._journal.write_epoch(epoch)

    def _step(self, step: Step, number: int) -> float:
        """One optimizer step; returns the mean loss over the rows of all workers."""
        total = torch.zeros((), device=self._device)
        for index, rows in enumerate(step.batches):
            with self._synchronised(last=index == len(step.batches) - 1):
                loss = self._loss(rows) / (step.num_rows * len(GENRES))
                # DDP divides the sum of the workers' gradients by their number.
                (loss * self._world).backward()
            total += loss.detach()
        clip = self._config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), float("inf") if clip is None else clip)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        dist.all_reduce(total)
        if not torch.isfinite(total):
            raise InputError(
                f"training diverged at step {number + 1}: the loss is {total.item()}; lower optimizer.lr_*"
            )
        if self._journal is not None:
            self._journal.write_step(
                number, {"loss": total.item(), "gradient_norm": norm.item()}, self._schedule.get_last_lr()
            )
        return total.item()

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        """Summed loss of this worker's rows; without any, zero times a row: DDP wants every worker's gradient."""
        taken = rows if len(rows) else np.zeros(1, np.int64)
        batch = to_device(self._train.movies.batch(taken), self._device)
        labels = torch.from_numpy(self._train.labels[taken]).to(self._device, non_blocking=True)
        with autocast(self._device, self._config.precision):
            logits = self._parallel(batch)
        loss = binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        return loss if len(rows) else loss * 0

    def _synchronised(self, *, last: bool) -> contextlib.AbstractContextManager:
        """Workers exchange gradients only in the last batch of a step."""
        return contextlib.nullcontext() if last or self._world == 1 else self._parallel.no_sync()

    def _validate(self) -> np.ndarray:
        """Logits of every validation row, shape (N, 9), the same on each worker, each row computed by one of them."""
        num_rows = len(self._val.labels)
        mine = np.arange(self._rank, num_rows, self._world)
        self._model.eval()
        part = predict_logits(self._model, self._val.movies.take(mine), self._device, self._config.precision)
        parts: list[Any] = [None] * self._world
        dist.all_gather_object(parts, part)
        logits = np.zeros((num_rows, len(GENRES)), np.float32)
        for rank, gathered in enumerate(parts):
            logits[rank :: self._world] = gathered
        return logits

    def _report(self, logits: np.ndarray) -> None:
        epoch = self.progress.history[-1]
        metrics = epoch.model_dump()
        if self._rank > 0:
            ray.train.report(metrics)
            return
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            training_state.save(folder, self._model, self._optimizer, self._schedule, self.progress)
            training_state.save_logits(folder, logits)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _validation_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and scores of validation movies; arrays of shape (N, 9)."""
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    return {"val_loss": loss} | held_out_scores(probabilities(logits, 1.0), labels)
