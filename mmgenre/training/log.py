"""The account of a training while it runs: TensorBoard events, and lines for the person at the terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.util.queue import Queue
from torch.utils.tensorboard import SummaryWriter

from mmgenre.tables import storage
from mmgenre.training.state import Epoch

_EVERY_S = 30


@dataclass(frozen=True)
class Extent:
    """How much there is to do: epochs, and optimizer steps in each."""

    num_epochs: int
    steps_per_epoch: int


class Journal:
    """Written by one worker.

    Args:
        tensorboard: folder for the event files, path or URI.
        lines: takes a line for each epoch, and now and then one within it.
        extent: of the whole training.
        steps_done: steps before this run; events of later ones, from a run that died, are dropped.
    """

    def __init__(self, tensorboard: str, lines: Queue, extent: Extent, steps_done: int):
        self._directory = tensorboard
        # Events are appended, which object stores cannot: there the file goes after each epoch, as it is.
        self._beside = TemporaryDirectory() if "://" in tensorboard else None
        self._writer = SummaryWriter(self._beside.name if self._beside else tensorboard, purge_step=steps_done)
        self._lines = lines
        self._extent = extent
        self._first, self._began = steps_done, time.monotonic()
        self._said = self._began

    def write_step(self, number: int, values: dict[str, float], lrs: Sequence[Any]) -> None:
        """Loss, gradient norm and rates of one optimizer step, numbered from 0 over all epochs."""
        rates = {"lr_bottom": lrs[0], "lr_head": lrs[-1]}
        for name, value in (values | rates).items():
            self._writer.add_scalar(f"train/{name}", value, number)
        if time.monotonic() - self._said >= _EVERY_S:
            epoch, step = divmod(number, self._extent.steps_per_epoch)
            self._say(
                f"epoch {epoch + 1}/{self._extent.num_epochs}, step {step + 1}/{self._extent.steps_per_epoch}: "
                f"loss {values['loss']:.4f}, {self._seconds_left(number + 1):,.0f} s to go"
            )

    def write_epoch(self, epoch: Epoch) -> None:
        """An epoch's figures."""
        steps = epoch.epoch * self._extent.steps_per_epoch
        for name, value in epoch.model_dump(exclude={"epoch"}).items():
            self._writer.add_scalar(f"epoch/{name}", value, steps)
        self._writer.flush()
        if self._beside is not None:
            storage.upload(Path(self._beside.name), self._directory)
        self._say(
            f"epoch {epoch.epoch}/{self._extent.num_epochs}: loss {epoch.loss:.4f}, val loss {epoch.val_loss:.4f}, "
            f"val macro F1 {epoch.macro_f1:.3f}, val mAP {epoch.mean_average_precision:.3f}, "
            f"{epoch.rows_per_second:,.0f} rows/s, {self._seconds_left(steps):,.0f} s to go"
        )

    def _seconds_left(self, steps: int) -> float:
        total = self._extent.num_epochs * self._extent.steps_per_epoch
        return (total - steps) * (time.monotonic() - self._began) / max(1, steps - self._first)

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._lines.put(line)
