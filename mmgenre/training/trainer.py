"""A model fitted by gradient: epochs of steps, and after each a validation of every row; alone, or as one of a team."""

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train.torch
import torch
import torch.distributed as dist
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits

from mmgenre.config import Config
from mmgenre.dataset.rows import Split
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import GenreModel
from mmgenre.models.inference import Precision, autocast, predict_logits, to_device
from mmgenre.scoring.metrics import Objective, held_out_scores
from mmgenre.scoring.thresholds import probabilities
from mmgenre.training import state as training_state
from mmgenre.training.batches import Plan, Step
from mmgenre.training.log import Extent, Journal
from mmgenre.training.optimizer import OptimizerConfig
from mmgenre.training.state import Begun, Epoch, Progress


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
    checkpoint_every: int | None = Field(
        None, ge=1, description="optimizer steps that a crash costs at the most; null: the epoch that it came in"
    )


class DivergedError(InputError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Team:
    """The processes that share each step, as one of them sees it.

    Args:
        device: where this one computes.
        rank: its number, from 0.
        size: how many there are; more than one are joined by torch.distributed.
        full_size: how many there are when all have come; a step is theirs, however many share it.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    full_size: int = 1

    def parallel(self, model: GenreModel) -> Any:
        """The model, its gradients averaged over the team."""
        return ray.train.torch.prepare_model(model, move_to_device=False) if self.size > 1 else model

    def add_up(self, value: torch.Tensor) -> None:
        """Replace a value by the sum of all values."""
        if self.size > 1:
            dist.all_reduce(value)

    def gather(self, part: Any) -> list[Any]:
        """Everyone's part, by rank."""
        parts: list[Any] = [part] * self.size
        if self.size > 1:
            dist.all_gather_object(parts, part)
        return parts


class Fit:
    """A training under way.

    Args:
        config: how to fit.
        model: with the weights to start from.
        splits: encoded movies, "train" and "val".
        team: whom it is shared with.
    """

    def __init__(self, config: FitConfig, model: GenreModel, splits: dict[str, Split], team: Team):
        torch.set_float32_matmul_precision("high")
        self.progress = Progress()
        self.journal: Journal | None = None
        self._config, self._team = config, team
        self._train, self._val = splits["train"], splits["val"]
        self._plan = Plan(config.batch_size, config.accumulate, team.full_size, config.seed)
        self._steps_per_epoch = self._plan.num_steps(len(self._train.labels))
        self._model = model.to(team.device)
        self._optimizer, self._schedule = config.optimizer.build(model, config.epochs * self._steps_per_epoch)
        self._parallel = team.parallel(model)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote into a local folder, at this config's rates."""
        self.progress = training_state.load(folder, self._model, self._optimizer, self._schedule)

    def save(self, folder: Path, logits: np.ndarray | None = None) -> None:
        """Write all that `restore` needs, and after an epoch its validation logits."""
        training_state.save(folder, self._model, self._optimizer, self._schedule, self.progress)
        if logits is not None:
            training_state.save_logits(folder, logits)

    def keep_journal(self, directory: str, lines: Any) -> None:
        """Write events, and lines for the person at the terminal, from here on; see Journal."""
        extent = Extent(self._config.epochs, self._steps_per_epoch)
        steps_done = self.progress.num_epochs * self._steps_per_epoch + self.progress.begun.steps
        self.journal = Journal(directory, lines, extent, steps_done)

    def wants_another_epoch(self) -> bool:
        """Whether there are epochs left, and patience."""
        exhausted = self.progress.exhausted(self._config.score, self._config.patience)
        return self.progress.num_epochs < self._config.epochs and not exhausted

    def run_epoch(self, keep: Callable[[], None] = lambda: None) -> np.ndarray:
        """Learn from every row once, or from those that are left; returns the validation logits, shape (N, 9).

        Args:
            keep: called now and then, as the config says, to save what is done of the epoch.

        Raises:
            DivergedError: the loss is not finite.
        """
        learned = self._learn(keep)
        began = time.monotonic()
        logits = self._validate()
        num_rows = len(self._train.labels)
        epoch = Epoch(
            epoch=self.progress.num_epochs + 1,
            loss=learned.loss / num_rows,
            rows_per_second=num_rows / learned.seconds,
            seconds=learned.seconds + time.monotonic() - began,
            **_validation_figures(logits, self._val.labels),
        )
        self.progress = Progress(history=(*self.progress.history, epoch))
        if self.journal is not None:
            self.journal.write_epoch(epoch)
        return logits

    def _learn(self, keep: Callable[[], None]) -> Begun:
        """The steps of an epoch that are left; returns the account of all."""
        number, before, began = self.progress.num_epochs, self.progress.begun, time.monotonic()
        self._parallel.train()
        steps = self._plan.steps(self._train.movies.lengths, number, self._team.rank, self._team.size)
        begun = before
        for index, step in enumerate(itertools.islice(steps, before.steps, None), before.steps):
            loss = begun.loss + self._step(step, number * self._steps_per_epoch + index) * step.num_rows
            begun = Begun(steps=index + 1, loss=loss, seconds=before.seconds + time.monotonic() - began)
            self.progress = self.progress.model_copy(update={"begun": begun})
            if self._is_kept(begun.steps):
                keep()
        return begun

    def _is_kept(self, num_steps: int) -> bool:
        """Whether a crash after so many steps of an epoch should not cost them."""
        every = self._config.checkpoint_every
        return every is not None and num_steps % every == 0 and num_steps < self._steps_per_epoch

    def _step(self, step: Step, number: int) -> float:
        """One optimizer step; returns the mean loss over the rows of all workers."""
        # Seeded by step, so that one that is taken again after a crash is the same step.
        torch.manual_seed(hash((self._config.seed, number, self._team.rank)) % 2**31)
        total = torch.zeros((), device=self._team.device)
        for index, rows in enumerate(step.batches):
            with self._synchronised(last=index == len(step.batches) - 1):
                loss = self._loss(rows) / (step.num_rows * len(GENRES))
                # DDP divides the sum of the workers' gradients by their number.
                (loss * self._team.size).backward()
            total += loss.detach()
        clip = self._config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), float("inf") if clip is None else clip)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._team.add_up(total)
        if not torch.isfinite(total):
            raise DivergedError(
                f"training diverged at step {number + 1}: the loss is {total.item()}; lower optimizer.lr_*"
            )
        if self.journal is not None:
            self.journal.write_step(
                number, {"loss": total.item(), "gradient_norm": norm.item()}, self._schedule.get_last_lr()
            )
        return total.item()

    def _loss(self, rows: np.ndarray) -> torch.Tensor:
        """Summed loss of this worker's rows; without any, zero times a row: DDP wants every worker's gradient."""
        taken = rows if len(rows) else np.zeros(1, np.int64)
        batch = to_device(self._train.movies.batch(taken), self._team.device)
        labels = torch.from_numpy(self._train.labels[taken]).to(self._team.device, non_blocking=True)
        with autocast(self._team.device, self._config.precision):
            logits = self._parallel(batch)
        loss = binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        return loss if len(rows) else loss * 0

    def _synchronised(self, *, last: bool) -> contextlib.AbstractContextManager:
        """Workers exchange gradients only in the last batch of a step."""
        return contextlib.nullcontext() if last or self._team.size == 1 else self._parallel.no_sync()

    def _validate(self) -> np.ndarray:
        """Logits of every validation row, shape (N, 9), the same on each worker, each row computed by one of them."""
        num_rows = len(self._val.labels)
        mine = np.arange(self._team.rank, num_rows, self._team.size)
        self._model.eval()
        part = predict_logits(self._model, self._val.movies.take(mine), self._team.device, self._config.precision)
        logits = np.zeros((num_rows, len(GENRES)), np.float32)
        for rank, gathered in enumerate(self._team.gather(part)):
            logits[rank :: self._team.size] = gathered
        return logits


def _validation_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and scores of validation movies; arrays of shape (N, 9)."""
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    return {"val_loss": loss} | held_out_scores(probabilities(logits, 1.0), labels)
