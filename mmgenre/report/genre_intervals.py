"""How far each genre's precision, recall and F1 would move on other movies."""

from dataclasses import dataclass

import numpy as np

from mmgenre.scoring.metrics import Bootstrap, resamples


@dataclass(frozen=True)
class GenreIntervals:
    """95 % percentile intervals; shape (9, 2) each, low and high, columns in GENRES order."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def genre_intervals(decided: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap) -> GenreIntervals:
    """Of the same resampled movies that `metrics.resampled_scores` draws, so that F1's are the same.

    Args:
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
        bootstrap: how they are drawn.
    """
    given, has = np.asarray(decided) != 0, np.asarray(labels) != 0
    per_movie = np.concatenate([given & has, given, has], axis=1).astype(np.float64)
    drawn = [weights @ per_movie for weights in resamples(len(has), bootstrap)]
    hits, num_given, support = np.split(np.concatenate(drawn), 3, axis=1)
    return GenreIntervals(
        precision=_limits(hits, num_given), recall=_limits(hits, support), f1=_limits(2 * hits, num_given + support)
    )


def _limits(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Quantiles of ratios, shape (9, 2), of shape (R, 9)."""
    ratios = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return np.quantile(ratios, (0.025, 0.975), axis=0).T
