"""From logits to decisions: calibration and cut-offs, both fitted on the validation movies.

Everywhere N movies and 9 columns in GENRES order.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import f1_score

from mmgenre.config import Config
from mmgenre.genres import GENRES

Cutoff = Annotated[float, Field(ge=0, le=1)]
_NO_EVIDENCE = 0.5
_TEMPERATURES = (0.05, 20.0)


class Thresholds(Config):
    """A model's cut-offs, of both kinds, and the kind in use: what a checkpoint keeps of them."""

    per_genre: tuple[Cutoff, ...] = Field(min_length=len(GENRES), max_length=len(GENRES), description="in GENRES order")
    global_threshold: Cutoff = Field(description="one cut-off for all genres")
    kind: Literal["per_genre", "global"] = Field(description="the kind that decides")

    def cutoffs(self) -> np.ndarray:
        """Shape (9,): the cut-offs in use."""
        if self.kind == "per_genre":
            return np.array(self.per_genre)
        return np.full(len(GENRES), self.global_threshold)


class Calibration(Config):
    """How logits become probabilities and decisions."""

    thresholds: Thresholds
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before the sigmoid")


def calibrate(logits: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Calibration:
    """The temperature and the cut-offs that suit validation movies; arguments and errors as those of their fits."""
    temperature = fit_temperature(logits, labels)
    thresholds = fit_thresholds(probabilities(logits, temperature), labels, seed=seed)
    return Calibration(thresholds=thresholds, temperature=temperature)


def aligned(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (probabilities or logits) as float64, and labels as bool, both of shape (N, 9).

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels) != 0
    if values.shape != labels.shape or values.shape[1:] != (len(GENRES),):
        raise ValueError(f"values of shape {values.shape}, labels {labels.shape}; expected (N, {len(GENRES)}) twice")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values)):,} values are not finite")
    return values, labels


def decide(probabilities: np.ndarray, cutoffs: np.ndarray | float) -> np.ndarray:
    """Which genres are predicted: shape (N, 9), bool, true where the probability >= the cut-off.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        cutoffs: shape (9,) or (N, 9), or one for all genres.
    """
    # In float64: numpy would round a cut-off to the float32 of the probabilities, perhaps onto one of them.
    return np.asarray(probabilities, np.float64) >= cutoffs


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each genre's cut-off that maximises that genre's F1.

    Exact over all cut-offs, and midway between the two scores it separates.

    Args:
        probabilities: shape (N, 9), in [0, 1], columns in GENRES order.
        labels: shape (N, 9), 0 or 1.

    Returns:
        Shape (9,): predict a genre when its probability >= its cut-off. A genre
        with no positive label keeps 0.5.

    Raises:
        ValueError: the shapes differ, or a probability is not finite.

    Source: Lipton, Elkan, Narayanaswamy 2014, arXiv:1402.1892.
    """
    probabilities, labels = aligned(probabilities, labels)
    scores, f1 = _f1_curves(probabilities, labels)
    cutoffs = np.full(len(GENRES), _NO_EVIDENCE)
    for column in np.flatnonzero(labels.any(axis=0)):
        cutoffs[column] = _best_cutoff(scores[:, column], f1[:, column])
    return cutoffs


def best_global_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The one cut-off for all genres that maximises macro F1 (the mean of the genres' F1).

    Exact over all cut-offs, and midway between the two scores it separates; 0.5 when there is no positive label.
    Arguments and errors are those of `best_thresholds`.
    """
    probabilities, labels = aligned(probabilities, labels)
    if not labels.any():
        return _NO_EVIDENCE
    scores, f1 = _f1_curves(probabilities, labels)
    # Lowering the cut-off by one score changes the F1 of one genre, so macro F1 is the running sum of the changes.
    changes = np.diff(f1, axis=0, prepend=0) / len(GENRES)
    order = np.argsort(-scores, axis=None, kind="stable")
    return _best_cutoff(scores.ravel()[order], np.cumsum(changes.ravel()[order]))


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0) -> Thresholds:
    """Cut-offs of both kinds, fitted on all movies; in use is the kind that generalises better.

    Nine cut-offs always look better where they were fitted. So each kind is fitted on all folds but one and decides
    that one; the kind whose decisions have the higher macro F1 is used, the global one when they tie. F1 is taken over
    the decisions of all folds at once, because a fold alone may hold no movie of a genre (Forman, Scholz 2010,
    "Apples-to-Apples in Cross-Validation Studies").

    Args:
        probabilities: shape (N, 9), in [0, 1].
        labels: shape (N, 9), 0 or 1.
        folds: parts of the movies, at least 2.
        seed: of the assignment of movies to folds.

    Raises:
        ValueError: the shapes differ, a probability is not finite, or there are no movies.
    """
    probabilities, labels = aligned(probabilities, labels)
    _require_movies(labels)
    fold = np.random.default_rng(seed).permutation(np.arange(len(labels)) % folds)
    separate = _held_out_f1(best_thresholds, probabilities, labels, fold)
    together = _held_out_f1(best_global_threshold, probabilities, labels, fold)
    return Thresholds(
        per_genre=tuple(best_thresholds(probabilities, labels).tolist()),
        global_threshold=best_global_threshold(probabilities, labels),
        kind="per_genre" if separate > together else "global",
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that calibrates a model: it minimises the mean binary cross-entropy of sigmoid(logits / T).

    Above 1 the model was too sure of itself, below 1 not enough. Sought between 0.05 and 20.

    Args:
        logits: shape (N, 9).
        labels: shape (N, 9), 0 or 1.

    Raises:
        ValueError: the shapes differ, a logit is not finite, or there are no movies.

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599.
    """
    logits, labels = aligned(logits, labels)
    _require_movies(labels)

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - scaled * labels))

    found = minimize_scalar(cross_entropy, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def probabilities(logits: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """sigmoid(logits / temperature), shape (N, 9), float64; one temperature, or shape (N, 1)."""
    return expit(np.asarray(logits, np.float64) / temperature)


def _f1_curves(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each genre's scores, highest first, and its F1 when that score and all above it are predicted; (N, 9) both."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    scores = np.take_along_axis(probabilities, order, axis=0)
    hits = np.cumsum(np.take_along_axis(labels, order, axis=0), axis=0)
    predicted = np.arange(1, len(labels) + 1)[:, None]
    return scores, 2 * hits / (predicted + labels.sum(axis=0))


def _best_cutoff(scores: np.ndarray, f1: np.ndarray) -> float:
    """Midway between the score down to which predicting is best and the next lower one; scores are falling."""
    separable = np.append(scores[1:] < scores[:-1], True)
    best = int(np.argmax(np.where(separable, f1, -1)))
    lower = scores[best + 1] if best + 1 < len(scores) else 0.0
    middle = (scores[best] + lower) / 2
    # Between two adjacent floats there is none: their mean may round to the lower one.
    return float(middle if middle > lower else scores[best])


def _held_out_f1(
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray | float],
    probabilities: np.ndarray,
    labels: np.ndarray,
    fold: np.ndarray,
) -> float:
    decided = np.zeros_like(labels)
    for number in np.unique(fold):
        held_out = fold == number
        decided[held_out] = decide(probabilities[held_out], fit(probabilities[~held_out], labels[~held_out]))
    return float(f1_score(labels, decided, average="macro", zero_division=0))


def _require_movies(labels: np.ndarray) -> None:
    if not len(labels):
        raise ValueError("no movies to fit on")
