"""The training loop: epochs of optimizer steps, each followed by validation, in one process or as one of several."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train.torch
import torch
import torch.distributed as dist
from torch.nn.functional import binary_cross_entropy_with_logits

from mmgenre.dataset.rows import Split
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import GenreModel
from mmgenre.models.inference import autocast, predict_logits, to_device
from mmgenre.scoring.metrics import held_out_scores
from mmgenre.scoring.thresholds import probabilities
from mmgenre.training import state
from mmgenre.training.batches import BatchPlan, TrainingStep
from mmgenre.training.config import FitConfig
from mmgenre.training.log import TrainingLength, TrainingLog
from mmgenre.training.state import EpochMetrics, PartialEpoch, TrainingProgress


class DivergedError(InputError):
    """The loss is NaN or infinite."""


@dataclass(frozen=True)
class ProcessGroup:
    """The data-parallel workers, seen from one of them.

    Args:
        device: device of this worker.
        rank: rank of this worker, from 0.
        size: workers running now; more than one are connected by torch.distributed.
        full_size: workers at full strength; they define the optimizer step, however many run now.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    full_size: int = 1

    def wrap(self, model: GenreModel) -> Any:
        """The model in DDP, which averages gradients over the workers."""
        return ray.train.torch.prepare_model(model, move_to_device=False) if self.size > 1 else model

    def all_reduce(self, value: torch.Tensor) -> None:
        """Replace a tensor by its sum over all workers."""
        if self.size > 1:
            dist.all_reduce(value)

    def broadcast(self, values: Iterable[torch.Tensor]) -> None:
        """Replace tensors by those of rank 0."""
        if self.size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all workers, by rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


class Trainer:
    """Trains a model by gradient descent, and resumes from any saved step.

    Args:
        config: hyperparameters.
        model: initial weights; trained in place.
        splits: encoded movies, "train" and "val".
        group: the workers that share each step.
    """

    def __init__(self, config: FitConfig, model: GenreModel, splits: dict[str, Split], group: ProcessGroup):
        torch.set_float32_matmul_precision("high")
        self.progress = TrainingProgress()
        self._log: TrainingLog | None = None
        self._config, self._group = config, group
        self._train, self._val = splits["train"], splits["val"]
        self._plan = BatchPlan(config.batch_size, config.accumulate, group.full_size, config.seed)
        self._steps_per_epoch = self._plan.num_steps(len(self._train.labels))
        self._model = model.to(group.device)
        self._optimizer, self._schedule = config.optimizer.build(model, config.epochs * self._steps_per_epoch)
        self._parallel_model = group.wrap(model)

    def restore(self, folder: Path) -> None:
        """Resume from a local folder that `save` wrote, with this config's learning rates."""
        self.progress = state.load(folder, self._model, self._optimizer, self._schedule)

    def save(self, folder: Path, logits: np.ndarray | None = None) -> None:
        """Write the state that `restore` reads, and the validation logits if given."""
        state.save(folder, self._model, self._optimizer, self._schedule, self.progress)
        if logits is not None:
            state.save_logits(folder, logits)

    def start_log(self, directory: str, lines: Any) -> None:
        """Log every later step and epoch; see TrainingLog."""
        steps_done = self.progress.num_epochs * self._steps_per_epoch + self.progress.partial_epoch.steps
        self._log = TrainingLog(
            directory, lines, TrainingLength(self._config.epochs, self._steps_per_epoch), steps_done
        )

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience is exhausted."""
        exhausted = self.progress.exhausted(self._config.score, self._config.patience)
        return self.progress.num_epochs >= self._config.epochs or exhausted

    def run_epoch(self, save_partial: Callable[[], None] = lambda: None) -> np.ndarray:
        """Train one epoch, or the rest of a partial one, and validate.

        Args:
            save_partial: called every `checkpoint_every` steps, to save the partial epoch.

        Returns:
            Validation logits, shape (N, 9).

        Raises:
            DivergedError: the loss or a prediction is not finite.
        """
        trained = self._train_epoch(save_partial)
        validation_start = time.monotonic()
        logits = self._validate()
        if not np.isfinite(logits).all():
            raise DivergedError(
                f"training diverged in epoch {self.progress.num_epochs + 1}: predictions for validation movies are not "
                "finite; lower optimizer.lr_*"
            )
        num_rows = len(self._train.labels)
        epoch = EpochMetrics(
            epoch=self.progress.num_epochs + 1,
            loss=trained.loss / num_rows,
            rows_per_second=num_rows / trained.seconds,
            seconds=trained.seconds + time.monotonic() - validation_start,
            **_validation_metrics(logits, self._val, self._config.seed),
        )
        # All workers must stop after the same epoch, and other machines may round scores otherwise.
        epoch = self._group.all_gather(epoch)[0]
        self.progress = TrainingProgress(history=(*self.progress.history, epoch))
        if self._log is not None:
            self._log.write_epoch(epoch)
        return logits

    def _train_epoch(self, save_partial: Callable[[], None]) -> PartialEpoch:
        """Take the epoch's remaining steps; returns the totals of the whole epoch."""
        epoch, resumed, start = self.progress.num_epochs, self.progress.partial_epoch, time.monotonic()
        self._parallel_model.train()
        steps = self._plan.steps(self._train.movies.lengths, epoch, self._group.rank, self._group.size)
        partial = resumed
        for index, step in enumerate(itertools.islice(steps, resumed.steps, None), resumed.steps):
            loss = partial.loss + self._step(step, epoch * self._steps_per_epoch + index) * step.num_rows
            partial = PartialEpoch(steps=index + 1, loss=loss, seconds=resumed.seconds + time.monotonic() - start)
            self.progress = self.progress.model_copy(update={"partial_epoch": partial})
            if self._is_checkpoint_due(partial.steps):
                save_partial()
        return partial

    def _is_checkpoint_due(self, steps: int) -> bool:
        """Whether to save after this many steps of an epoch; its last step is saved with the epoch."""
        every = self._config.checkpoint_every
        return every is not None and steps % every == 0 and steps < self._steps_per_epoch

    def _step(self, step: TrainingStep, number: int) -> float:
        """Take one optimizer step; returns the mean loss over the rows of all workers."""
        # Seeded per step, so that a step repeated after a crash draws the same dropout masks.
        torch.manual_seed(hash((self._config.seed, number, self._group.rank)) % 2**31)
        total = torch.zeros((), device=self._group.device)
        for index, rows in enumerate(step.batches):
            with self._gradient_sync(enabled=index == len(step.batches) - 1):
                loss = self._loss(rows) / (step.num_rows * len(GENRES))
                # DDP averages gradients over the workers; the step needs their sum.
                (loss * self._group.size).backward()
            total += loss.detach()
        clip_norm = self._config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), clip_norm or float("inf"))
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._group.all_reduce(total)
        if not torch.isfinite(total):
            raise DivergedError(
                f"training diverged at step {number + 1}: the loss is {total.item()}; lower optimizer.lr_*"
            )
        if self._log is not None:
            values = {"loss": total.item(), "gradient_norm": norm.item()}
            self._log.write_step(number, values, self._schedule.get_last_lr())
        return total.item()

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        """Summed loss over this worker's rows.

        Without rows, zero times the loss of row 0, because DDP needs a gradient from every worker.
        """
        used_rows = rows if len(rows) else np.zeros(1, np.int64)
        batch = to_device(self._train.movies.batch(used_rows), self._group.device)
        labels = torch.from_numpy(self._train.labels[used_rows]).to(self._group.device, non_blocking=True)
        with autocast(self._group.device, self._config.precision):
            logits = self._parallel_model(batch)
        loss = binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        return loss if len(rows) else loss * 0

    def _gradient_sync(self, *, enabled: bool) -> contextlib.AbstractContextManager:
        """Exchange gradients between workers only in a step's last micro-batch."""
        return contextlib.nullcontext() if enabled or self._group.size == 1 else self._parallel_model.no_sync()

    def _validate(self) -> np.ndarray:
        """Logits of all validation rows, shape (N, 9), on every worker; each worker computes a share of the rows."""
        num_rows = len(self._val.labels)
        own_rows = np.arange(self._group.rank, num_rows, self._group.size)
        self._model.eval()
        # The running statistics of batch norm differ by worker, and those of rank 0 are saved.
        saved = self._model.state_dict()
        self._group.broadcast(value for name, value in self._model.named_buffers() if name in saved)
        own_logits = predict_logits(
            self._model, self._val.movies.take(own_rows), self._group.device, self._config.precision
        )
        logits = np.zeros((num_rows, len(GENRES)), np.float32)
        for rank, gathered in enumerate(self._group.all_gather(own_logits)):
            logits[rank :: self._group.size] = gathered
        return logits


def _validation_metrics(logits: np.ndarray, val: Split, seed: int) -> dict[str, float]:
    """Loss and scores of the validation movies, whose logits have shape (N, 9)."""
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(val.labels)).item()
    return {"val_loss": loss} | held_out_scores(probabilities(logits, 1.0), val.labels, groups=val.groups, seed=seed)
