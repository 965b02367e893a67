"""The log of a running training: TensorBoard events, and progress lines for the terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.util.queue import Queue
from torch.utils.tensorboard import SummaryWriter

from mmgenre.tables import storage
from mmgenre.training.state import EpochMetrics

_SECONDS_BETWEEN_LINES = 30


@dataclass(frozen=True)
class TrainingLength:
    """How long a training is, in epochs and in optimizer steps per epoch."""

    num_epochs: int
    steps_per_epoch: int


class TrainingLog:
    """Logs one training; only rank 0 has one.

    Args:
        directory: folder for the TensorBoard event files, path or URI.
        lines: queue for one line per epoch, and one every 30 s within an epoch.
        length: of the whole training.
        steps_done: steps taken before this run; later events of a crashed run are purged.
    """

    def __init__(self, directory: str, lines: Queue, length: TrainingLength, steps_done: int):
        self._directory = directory
        # TensorBoard appends, which object stores cannot: write locally, and upload after each epoch.
        self._local_copy = TemporaryDirectory() if "://" in directory else None
        self._writer = SummaryWriter(self._local_copy.name if self._local_copy else directory, purge_step=steps_done)
        self._lines = lines
        self._length = length
        self._first_step, self._start_time = steps_done, time.monotonic()
        self._last_line_time = self._start_time

    def write_step(self, step: int, values: dict[str, float], lrs: Sequence[Any]) -> None:
        """Log loss, gradient norm and learning rates of one optimizer step, counted from 0 over all epochs."""
        for name, value in (values | {"lr_bottom": lrs[0], "lr_head": lrs[-1]}).items():
            self._writer.add_scalar(f"train/{name}", value, step)
        if time.monotonic() - self._last_line_time >= _SECONDS_BETWEEN_LINES:
            epoch, step_in_epoch = divmod(step, self._length.steps_per_epoch)
            self._print(
                f"epoch {epoch + 1}/{self._length.num_epochs}, "
                f"step {step_in_epoch + 1}/{self._length.steps_per_epoch}: "
                f"loss {values['loss']:.4f}, {self._seconds_left(step + 1):,.0f} s to go"
            )

    def write_epoch(self, epoch: EpochMetrics) -> None:
        """Log the metrics of a finished epoch."""
        steps_done = epoch.epoch * self._length.steps_per_epoch
        for name, value in epoch.model_dump(exclude={"epoch"}).items():
            self._writer.add_scalar(f"epoch/{name}", value, steps_done)
        self._writer.flush()
        if self._local_copy is not None:
            storage.upload(Path(self._local_copy.name), self._directory)
        self._print(
            f"epoch {epoch.epoch}/{self._length.num_epochs}: loss {epoch.loss:.4f}, val loss {epoch.val_loss:.4f}, "
            f"val macro F1 {epoch.macro_f1:.3f}, val mAP {epoch.mean_average_precision:.3f}, "
            f"{epoch.rows_per_second:,.0f} rows/s, {self._seconds_left(steps_done):,.0f} s to go"
        )

    def _seconds_left(self, steps_done: int) -> float:
        num_steps = self._length.num_epochs * self._length.steps_per_epoch
        seconds_per_step = (time.monotonic() - self._start_time) / max(1, steps_done - self._first_step)
        return (num_steps - steps_done) * seconds_per_step

    def _print(self, line: str) -> None:
        self._last_line_time = time.monotonic()
        self._lines.put(line)
