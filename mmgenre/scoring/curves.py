"""Curves for reports: F1 by cut-off, precision against recall, and calibration.

Throughout: N movies, 9 columns in GENRES order.
"""

from dataclasses import dataclass

import numpy as np

from mmgenre.labels import GENRES
from mmgenre.scoring.thresholds import checked_arrays

# The standard normal quantile of a 95 % interval.
_Z = 1.959964


def f1_by_cutoff(probabilities: np.ndarray, labels: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """Each genre's F1 at each cut-off; 0 if no movie has the genre and none is predicted to have it.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        labels: shape (N, 9), 0 or 1.
        cutoffs: shape (C,).

    Returns:
        Shape (C, 9).

    Raises:
        ValueError: the shapes differ, or a probability is not finite.
    """
    probabilities, labels = checked_arrays(probabilities, labels)
    f1 = np.zeros((len(cutoffs), len(GENRES)))
    for genre in range(len(GENRES)):
        ascending = np.sort(probabilities[:, genre])
        positives = np.sort(probabilities[labels[:, genre], genre])
        num_predicted = len(ascending) - np.searchsorted(ascending, cutoffs, side="left")
        num_hits = len(positives) - np.searchsorted(positives, cutoffs, side="left")
        f1[:, genre] = 2 * num_hits / np.maximum(num_predicted + len(positives), 1)
    return f1


def precision_recall(probabilities: np.ndarray, labels: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The precision-recall curve of one genre, thinned to a number of points.

    Args:
        probabilities: shape (N,).
        labels: shape (N,), 0 or 1.
        points: maximum number of points.

    Returns:
        Recall, ascending, and precision, shape (P,) each; both empty if no movie has the genre.
    """
    labels = np.asarray(labels) != 0
    if not labels.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-np.asarray(probabilities, np.float64), kind="stable")
    falling = np.asarray(probabilities, np.float64)[order]
    # Movies with equal probability are predicted together.
    ends = np.append(np.flatnonzero(falling[1:] < falling[:-1]), len(falling) - 1)
    hits = np.cumsum(labels[order])[ends]
    recall, precision = hits / labels.sum(), hits / (ends + 1)
    if len(recall) > points:
        # Evenly spaced along recall, the visible axis, including both ends.
        spaced = np.searchsorted(recall, np.linspace(recall[0], 1, points - 1))
        keep = np.unique(np.append(spaced, len(recall) - 1))
        recall, precision = recall[keep], precision[keep]
    return recall, precision


@dataclass(frozen=True)
class Reliability:
    """A calibration curve: predictions in bins of equal width; empty bins are left out.

    Args:
        mean_probability: shape (B,).
        positive_share: share of true labels, shape (B,).
        low: lower end of the share's 95 % Wilson interval, shape (B,).
        high: upper end, shape (B,).
        counts: predictions per bin, shape (B,).
        error: the expected calibration error: mean distance between probability and share over all predictions.
    """

    mean_probability: np.ndarray
    positive_share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    error: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """The calibration curve of some predictions.

    Args:
        probabilities: any shape, in [0, 1].
        labels: the same shape, 0 or 1.
        bins: number of bins over [0, 1].

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599; Wilson 1927 for the intervals.
    """
    chances, positives = np.asarray(probabilities, np.float64).ravel(), (np.asarray(labels) != 0).ravel()
    columns = np.minimum(chances * bins, bins - 1).astype(np.int64)
    counts = np.bincount(columns, minlength=bins)
    used = counts > 0
    counts = counts[used]
    mean_probability = np.bincount(columns, weights=chances, minlength=bins)[used] / counts
    positive_share = np.bincount(columns, weights=positives, minlength=bins)[used] / counts
    low, high = wilson_interval(positive_share, counts)
    error = float(np.abs(mean_probability - positive_share) @ counts / max(len(chances), 1))
    return Reliability(mean_probability, positive_share, low, high, counts, error)


def wilson_interval(shares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of binomial proportions: lower and upper ends.

    Args:
        shares: observed proportions.
        counts: number of trials of each, above 0; the same shape.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    spread = _Z**2 / counts
    middle = (shares + spread / 2) / (1 + spread)
    half = _Z * np.sqrt(shares * (1 - shares) / counts + spread / (4 * counts)) / (1 + spread)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
