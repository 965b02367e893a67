"""Which movies are computed together: length-bucketed training steps, and batches for prediction.

Pure functions of arrays. Every worker computes the same plan, so nothing has to be sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Movies of this many batches are sorted by length together: enough for equal lengths, few enough to stay random.
_WINDOW = 50
# Rows shorter than this share of a batch's longest one wait for the next batch. Among few rows the longest is far
# longer than most: padding 32 plots to it takes twice as long as three batches do.
_SIMILAR = 0.75


@dataclass(frozen=True)
class Step:
    """One optimizer step of one worker.

    Args:
        batches: row numbers of each micro-batch; an empty one means that only other workers have rows.
        num_rows: rows of the step over all workers, by which its loss is divided.
    """

    batches: list[np.ndarray]
    num_rows: int


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut into steps.

    Args:
        batch_size: movies of a worker in one micro-batch.
        accumulate: micro-batches in one optimizer step.
        num_workers: workers that share each micro-batch, when all are there.
        seed: of the order.
    """

    batch_size: int
    accumulate: int
    num_workers: int
    seed: int

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps of one epoch; the last may hold fewer movies, but is not dropped."""
        return -(-num_rows // (self.batch_size * self.num_workers * self.accumulate))

    def steps(self, lengths: np.ndarray, epoch: int, rank: int, present: int) -> Iterator[Step]:
        """The steps of one worker in one epoch: each movie in one step of one worker.

        Two workers see the same steps as one worker with twice the batch size; and where fewer are present than the
        plan is for, the same steps in more micro-batches.

        Args:
            lengths: shape (N,), tokens of each movie.
            epoch: number of the epoch, from 0; each has its own order.
            rank: number of the worker, from 0.
            present: how many workers there are.
        """
        batches = self._global_batches(lengths, epoch)
        for start in range(0, len(batches), self.accumulate):
            group = batches[start : start + self.accumulate]
            parts = [part for batch in group for part in self._parts(batch, rank, present)]
            yield Step(parts, sum(map(len, group)))

    def _parts(self, batch: np.ndarray, rank: int, present: int) -> list[np.ndarray]:
        """A worker's micro-batches of what all share: as many as everybody else's."""
        mine, size = batch[rank::present], self.batch_size
        return [mine[start : start + size] for start in range(0, max(1, -(-len(batch) // present)), size)]

    def _global_batches(self, lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(lengths))
        size = self.batch_size * self.num_workers
        batches: list[np.ndarray] = []
        for start in range(0, len(order), size * _WINDOW):
            window = order[start : start + size * _WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[first : first + size] for first in range(0, len(window), size)]
        # The short batch goes last: in the middle it would shift what later steps accumulate.
        full = [batch for batch in batches if len(batch) == size]
        short = [batch for batch in batches if len(batch) < size]
        return [full[number] for number in random.permutation(len(full))] + short


def by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of similar length, longest first, each of at most max_tokens padded tokens.

    A row longer than max_tokens is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    ascending = -lengths[order]
    start = 0
    while start < len(order):
        longest = -int(ascending[start])
        similar = int(np.searchsorted(ascending, -_SIMILAR * longest, side="right"))
        end = min(similar, start + rows_of(longest, max_tokens))
        yield order[start:end]
        start = end


def rows_of(longest: int, max_tokens: int) -> int:
    """How many rows that are padded to so many tokens are a batch: one at least."""
    return max(1, max_tokens // max(1, longest))
