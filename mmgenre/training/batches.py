"""Length-bucketed batches for training, split over data-parallel workers.

Pure functions of arrays: every worker computes the same plan, so workers need not exchange it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Batches sorted by length together: enough for similar lengths within a batch, few enough to stay random.
_WINDOW = 50


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step of one worker.

    Args:
        batches: row numbers of each micro-batch; empty if only other workers have rows.
        num_rows: rows of the step over all workers; the divisor of its loss.
    """

    batches: list[np.ndarray]
    num_rows: int


@dataclass(frozen=True)
class BatchPlan:
    """Splits epochs into optimizer steps.

    Args:
        batch_size: movies per micro-batch, on each worker.
        accumulate: micro-batches per optimizer step.
        num_workers: workers at full strength.
        seed: of the row order.
    """

    batch_size: int
    accumulate: int
    num_workers: int
    seed: int

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps per epoch, including a smaller last one."""
        return -(-num_rows // (self.batch_size * self.num_workers * self.accumulate))

    def steps(self, lengths: np.ndarray, epoch: int, rank: int, present: int) -> Iterator[TrainingStep]:
        """One worker's share of an epoch; each movie is in one step of one worker.

        Two workers take the same steps as one worker with twice the batch size. If fewer than `num_workers` are
        running, they take the same steps in more micro-batches.

        Args:
            lengths: shape (N,), tokens per movie.
            epoch: epoch number, from 0; each epoch has its own order.
            rank: rank of the worker, from 0.
            present: number of workers running.
        """
        batches = self._global_batches(lengths, epoch)
        for start in range(0, len(batches), self.accumulate):
            group = batches[start : start + self.accumulate]
            parts = [part for batch in group for part in self._parts(batch, rank, present)]
            yield TrainingStep(parts, sum(map(len, group)))

    def _parts(self, batch: np.ndarray, rank: int, present: int) -> list[np.ndarray]:
        """A worker's micro-batches of a global batch; every worker gets the same number of them."""
        own, size = batch[rank::present], self.batch_size
        return [own[start : start + size] for start in range(0, max(1, -(-len(batch) // present)), size)]

    def _global_batches(self, lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(lengths))
        size = self.batch_size * self.num_workers
        batches: list[np.ndarray] = []
        for start in range(0, len(order), size * _WINDOW):
            window = order[start : start + size * _WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[first : first + size] for first in range(0, len(window), size)]
        # The short batch goes last: elsewhere it would shift the micro-batches of later steps.
        full = [batch for batch in batches if len(batch) == size]
        short = [batch for batch in batches if len(batch) < size]
        return [full[number] for number in random.permutation(len(full))] + short
