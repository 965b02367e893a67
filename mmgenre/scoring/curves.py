"""What predictions would be at every cut-off, and what became of those of every probability: curves for people to see.

Everywhere N movies, 9 columns in GENRES order.
"""

from dataclasses import dataclass

import numpy as np

from mmgenre.labels import GENRES
from mmgenre.scoring.thresholds import aligned

# The quantile of the normal distribution that a 95 % interval goes up to.
_Z = 1.959964


def f1_by_cutoff(probabilities: np.ndarray, labels: np.ndarray, cutoffs: np.ndarray) -> np.ndarray:
    """Each genre's F1 when it is predicted from a cut-off on; 0 where none has it and none is predicted.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        labels: shape (N, 9), 0 or 1.
        cutoffs: shape (C,).

    Returns:
        Shape (C, 9).

    Raises:
        ValueError: the shapes differ, or a probability is not finite.
    """
    probabilities, labels = aligned(probabilities, labels)
    f1 = np.zeros((len(cutoffs), len(GENRES)))
    for genre in range(len(GENRES)):
        rising = np.sort(probabilities[:, genre])
        hits = np.sort(probabilities[labels[:, genre], genre])
        num_predicted = len(rising) - np.searchsorted(rising, cutoffs, side="left")
        num_hits = len(hits) - np.searchsorted(hits, cutoffs, side="left")
        f1[:, genre] = 2 * num_hits / np.maximum(num_predicted + len(hits), 1)
    return f1


def precision_recall(probabilities: np.ndarray, labels: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one genre as its cut-off falls, at no more points than a person can see.

    Args:
        probabilities: shape (N,).
        labels: shape (N,), 0 or 1.
        points: at the most.

    Returns:
        Recall, rising, and precision, shapes (P,); both empty where no movie has the genre.
    """
    labels = np.asarray(labels) != 0
    if not labels.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-np.asarray(probabilities, np.float64), kind="stable")
    falling = np.asarray(probabilities, np.float64)[order]
    # Movies of one probability are predicted together.
    ends = np.append(np.flatnonzero(falling[1:] < falling[:-1]), len(falling) - 1)
    hits = np.cumsum(labels[order])[ends]
    recall, precision = hits / labels.sum(), hits / (ends + 1)
    if len(recall) > points:
        # Evenly along the recall, which is the axis that is seen; the first and the last one stay.
        wanted = np.searchsorted(recall, np.linspace(recall[0], 1, points - 1))
        keep = np.unique(np.append(wanted, len(recall) - 1))
        recall, precision = recall[keep], precision[keep]
    return recall, precision


@dataclass(frozen=True)
class Reliability:
    """Bins of probabilities against what became of them; bins without a prediction are left out.

    Args:
        promised: shape (B,): mean probability.
        came_true: shape (B,): share of true labels.
        low: shape (B,): of the 95 % Wilson interval of that share.
        high: shape (B,).
        counts: shape (B,): predictions.
        error: mean over predictions of the distance between the first two: the expected calibration error.
    """

    promised: np.ndarray
    came_true: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    error: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Bins of equal width, as those of `metrics.expected_calibration_error`, whose result `error` is.

    Args:
        probabilities: any shape, in [0, 1].
        labels: the same shape, 0 or 1.
        bins: over [0, 1].

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599; Wilson 1927 for the intervals.
    """
    chances, truths = np.asarray(probabilities, np.float64).ravel(), (np.asarray(labels) != 0).ravel()
    columns = np.minimum(chances * bins, bins - 1).astype(np.int64)
    counts = np.bincount(columns, minlength=bins)
    found = counts > 0
    counts_found = counts[found]
    promised = np.bincount(columns, weights=chances, minlength=bins)[found] / counts_found
    came_true = np.bincount(columns, weights=truths, minlength=bins)[found] / counts_found
    low, high = wilson(came_true, counts_found)
    error = float(np.abs(promised - came_true) @ counts_found / max(len(chances), 1))
    return Reliability(promised, came_true, low, high, counts_found, error)


def wilson(shares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of shares of so many; shapes alike, counts above 0.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    spread = _Z**2 / counts
    middle = (shares + spread / 2) / (1 + spread)
    half = _Z * np.sqrt(shares * (1 - shares) / counts + spread / (4 * counts)) / (1 + spread)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
