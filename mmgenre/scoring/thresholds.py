"""From logits to decisions: calibration and cut-offs, both fitted on the validation movies.

Everywhere N movies and 9 columns in GENRES order.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from mmgenre.config import Config
from mmgenre.labels import GENRES

Cutoff = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["per_genre", "global"]
_NO_EVIDENCE = 0.5
_TEMPERATURES = (0.05, 20.0)
# Of probabilities that float64 rounds to 0 or 1, for their log-odds to be finite.
_SMALLEST = 1e-12
# How hard a genre's calibration is drawn towards leaving probabilities as they are: as by some movies that say so.
_PULL = 5.0
_SLOPES = (0.05, 20.0)


class Thresholds(Config):
    """A model's cut-offs, of both kinds, and the kind in use: what a checkpoint keeps of them."""

    per_genre: tuple[Cutoff, ...] = Field(min_length=len(GENRES), max_length=len(GENRES), description="in GENRES order")
    global_threshold: Cutoff = Field(description="one cut-off for all genres")
    kind: Kind = Field(description="the kind that decides")

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
    """Each genre's cut-off that maximises the F1 expected of that genre.

    The cut-off with the highest F1 on a few hundred movies is a lucky one. So each genre's probabilities are calibrated
    first (Platt's logistic line, drawn towards leaving them as they are), and the cut-off is half of the highest F1
    that calibrated probabilities promise, as it is where they are true.

    Args:
        probabilities: shape (N, 9), in [0, 1], columns in GENRES order.
        labels: shape (N, 9), 0 or 1.

    Returns:
        Shape (9,): predict a genre when its probability >= its cut-off. A genre
        with no positive label keeps 0.5.

    Raises:
        ValueError: the shapes differ, or a probability is not finite.

    Source: Lipton, Elkan, Narayanaswamy 2014, arXiv:1402.1892; Platt 1999, "Probabilistic Outputs for Support Vector
    Machines".
    """
    probabilities, labels = aligned(probabilities, labels)
    cutoffs = np.full(len(GENRES), _NO_EVIDENCE)
    for column in np.flatnonzero(labels.any(axis=0)):
        log_odds = logit(np.clip(probabilities[:, column], _SMALLEST, 1 - _SMALLEST))
        slope, shift = _logistic_line(log_odds, labels[:, column])
        half = _highest_expected_f1(expit(slope * log_odds + shift)) / 2
        cutoffs[column] = expit((logit(half) - shift) / slope)
    return cutoffs


def best_global_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The one cut-off for all genres that maximises macro F1 (the mean of the genres' F1).

    Exact over all cut-offs, and midway between the two scores it separates; 0.5 when there is no positive label. Taken
    from the labels as they are: nine times as many decisions leave less to luck. Arguments and errors are those of
    `best_thresholds`.
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

    Nine cut-offs always look better where they were fitted. So the kind is used whose decisions of movies that it was
    not fitted on have the higher macro F1, the global one when they tie; see `HeldOut`.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        labels: shape (N, 9), 0 or 1.
        folds: parts of the movies, at least 2.
        seed: of the assignment of movies to folds.

    Raises:
        ValueError: the shapes differ, a probability is not finite, or there are no movies.
    """
    return Thresholds(
        per_genre=tuple(best_thresholds(probabilities, labels).tolist()),
        global_threshold=best_global_threshold(probabilities, labels),
        kind=HeldOut.of(probabilities, labels, folds=folds, seed=seed).better,
    )


@dataclass(frozen=True)
class HeldOut:
    """Decisions of every movie with cut-offs that were fitted on all folds but the movie's; shape (N, 9), bool.

    What they score is what to expect of other movies. Scores are taken over the decisions of all folds at once, because
    a fold alone may hold no movie of a genre (Forman, Scholz 2010, "Apples-to-Apples in Cross-Validation Studies").

    Args:
        per_genre: with a cut-off for each genre.
        together: with one for all.
        better: the kind with the higher macro F1.
    """

    per_genre: np.ndarray
    together: np.ndarray
    better: Kind

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0) -> "HeldOut":
        """Arguments and errors are those of `fit_thresholds`."""
        probabilities, labels = aligned(probabilities, labels)
        _require_movies(labels)
        fold = np.random.default_rng(seed).permutation(np.arange(len(labels)) % folds)
        per_genre, together = np.zeros_like(labels), np.zeros_like(labels)
        for number in np.unique(fold):
            out = fold == number
            fitted_on = probabilities[~out], labels[~out]
            per_genre[out] = decide(probabilities[out], best_thresholds(*fitted_on))
            together[out] = decide(probabilities[out], best_global_threshold(*fitted_on))
        is_better = _macro_f1(labels, per_genre) > _macro_f1(labels, together)
        return cls(per_genre, together, "per_genre" if is_better else "global")

    @property
    def decided(self) -> np.ndarray:
        """Those of the better kind."""
        return self.per_genre if self.better == "per_genre" else self.together


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


def _macro_f1(labels: np.ndarray, decided: np.ndarray) -> float:
    return float(f1_score(labels, decided, average="macro", zero_division=0))


def _logistic_line(log_odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and shift of the line that makes one genre's log-odds, shape (N,), those of its labels."""

    def cross_entropy(line: np.ndarray) -> float:
        line_of = np.exp(line[0]) * log_odds + line[1]
        return float(np.sum(np.logaddexp(0, line_of) - line_of * labels) + _PULL * np.sum(line**2))

    log_slope, shift = minimize(cross_entropy, np.zeros(2), bounds=[np.log(_SLOPES), (None, None)]).x
    return float(np.exp(log_slope)), float(shift)


def _highest_expected_f1(chances: np.ndarray) -> float:
    """Of predicting the genre for the movies that most likely have it, however many, given true chances, shape (N,)."""
    falling = np.sort(chances)[::-1]
    num_predicted = np.arange(1, len(falling) + 1)
    return float(np.max(2 * np.cumsum(falling) / (num_predicted + falling.sum())))


def _require_movies(labels: np.ndarray) -> None:
    if not len(labels):
        raise ValueError("no movies to fit on")
