"""What is predicted instead of a genre that is missed."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

# Below so many movies a share says nothing.
FEWEST = 10
_LEVEL = 0.05


@dataclass(frozen=True)
class Confusion:
    """Rows: the genre that is missed; columns: the one that is predicted wrongly.

    Args:
        missed: shape (9,): movies that have the row's genre and are not predicted to.
        instead: shape (9, 9): of those of them that do not have the column's genre, the share predicted to have it.
        usual: shape (9,): that share of all movies that do not have the column's genre: the base rate.
        ratio: shape (9, 9): instead / usual.
        is_sure: shape (9, 9), bool: whether ratio is not 1 by more than chance: Fisher's exact test, at 5 % for all
            cells together (Bonferroni).

    NaN on the diagonal, where a share is of fewer than FEWEST movies, and where there is nothing to divide by.
    """

    missed: np.ndarray
    instead: np.ndarray
    usual: np.ndarray
    ratio: np.ndarray
    is_sure: np.ndarray

    @property
    def largest(self) -> tuple[int, int] | None:
        """Row and column of the highest ratio above 1 that is sure; None where there is none."""
        candidates = np.where(self.is_sure & (self.ratio > 1), self.ratio, -np.inf)
        row, column = np.unravel_index(int(candidates.argmax()), candidates.shape)
        return (int(row), int(column)) if np.isfinite(candidates[row, column]) else None


def confusion(decided: np.ndarray, labels: np.ndarray) -> Confusion:
    """Confusion between genres where a movie may have several.

    A movie has no one genre that another could be taken for. So of the movies whose genre A is missed it is asked how
    often they are given a genre B that they do not have, and how much more often than other movies without B: 1 is no
    confusion at all, 2 is twice as often.

    Args:
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
    """
    given, has = np.asarray(decided) != 0, np.asarray(labels) != 0
    is_missed = (has & ~given).astype(np.float64)
    false, absent = (given & ~has).astype(np.float64), (~has).astype(np.float64)
    num_asked, num_given = is_missed.T @ absent, is_missed.T @ false
    instead = _share(num_given, num_asked, FEWEST)
    np.fill_diagonal(instead, np.nan)
    usual = _share(false.sum(axis=0), absent.sum(axis=0), 1)
    ratio = np.divide(instead, usual, out=np.full(instead.shape, np.nan), where=usual > 0)
    chance = _chance(num_given, num_asked, false.sum(axis=0), absent.sum(axis=0))
    is_sure = chance * np.count_nonzero(~np.isnan(ratio)) < _LEVEL
    return Confusion(is_missed.sum(axis=0).astype(np.int64), instead, usual, ratio, is_sure & ~np.isnan(ratio))


def _chance(num_given: np.ndarray, num_asked: np.ndarray, all_given: np.ndarray, num_all: np.ndarray) -> np.ndarray:
    """How probable as many, or as few, are given a genre among those asked as among any others: two-sided."""
    drawn = hypergeom(num_all, all_given, num_asked)
    return np.minimum(1, 2 * np.minimum(drawn.cdf(num_given), drawn.sf(num_given - 1)))


def _share(part: np.ndarray, whole: np.ndarray, fewest: int) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole >= fewest)
