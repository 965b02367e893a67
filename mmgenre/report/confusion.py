"""Confusions between genres: what a model predicts by mistake when it misses a genre."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

# Shares of fewer movies than this are not shown.
MIN_MOVIES = 10
_LEVEL = 0.05


@dataclass(frozen=True)
class Confusion:
    """Row: the missed genre. Column: the falsely predicted genre.

    NaN on the diagonal, for shares of fewer than MIN_MOVIES movies, and for divisions by zero.

    Args:
        missed: shape (9,): movies that have the row's genre and were not predicted to have it.
        rate: shape (9, 9): false positive rate of the column's genre among the movies that miss the row's.
        base_rate: shape (9,): false positive rate of the column's genre among all movies.
        ratio: shape (9, 9): rate / base_rate.
        is_significant: shape (9, 9), bool: whether the ratio differs from 1 by Fisher's exact test, at 5 % for all
            cells together (Bonferroni).
    """

    missed: np.ndarray
    rate: np.ndarray
    base_rate: np.ndarray
    ratio: np.ndarray
    is_significant: np.ndarray

    @property
    def largest(self) -> tuple[int, int] | None:
        """Row and column of the highest significant ratio above 1; None if there is none."""
        candidates = np.where(self.is_significant & (self.ratio > 1), self.ratio, -np.inf)
        row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
        return (int(row), int(column)) if np.isfinite(candidates[row, column]) else None


def confusion(decided: np.ndarray, labels: np.ndarray) -> Confusion:
    """Confusion between genres where movies have several.

    A multi-label model has no ordinary confusion matrix, because a missed genre need not be replaced by another one.
    Instead, this compares false positive rates: how often genre B is predicted falsely among movies whose genre A was
    missed, relative to all movies. A ratio of 1 is no confusion, 2 is twice as often.

    Args:
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
    """
    predicted, actual = np.asarray(decided) != 0, np.asarray(labels) != 0
    is_missed = (actual & ~predicted).astype(np.float64)
    false_positive, negative = (predicted & ~actual).astype(np.float64), (~actual).astype(np.float64)
    num_negative, num_false = is_missed.T @ negative, is_missed.T @ false_positive
    all_negative, all_false = negative.sum(axis=0), false_positive.sum(axis=0)
    rate = _divide(num_false, num_negative, MIN_MOVIES)
    np.fill_diagonal(rate, np.nan)
    base_rate = _divide(all_false, all_negative, 1)
    ratio = np.divide(rate, base_rate, out=np.full(rate.shape, np.nan), where=base_rate > 0)
    # Fisher's exact test, two-sided: the number of false positives among those that miss the genre.
    null = hypergeom(all_negative, all_false, num_negative)
    p_values = np.minimum(1, 2 * np.minimum(null.cdf(num_false), null.sf(num_false - 1)))
    is_significant = (p_values * np.count_nonzero(~np.isnan(ratio)) < _LEVEL) & ~np.isnan(ratio)
    return Confusion(is_missed.sum(axis=0).astype(np.int64), rate, base_rate, ratio, is_significant)


def _divide(numerator: np.ndarray, denominator: np.ndarray, minimum: int) -> np.ndarray:
    """Divide where the denominator is at least `minimum`; NaN elsewhere."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator >= minimum)
