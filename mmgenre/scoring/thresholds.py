"""Calibration and cut-offs, which turn logits into genres. Both are fitted on the validation split.

Throughout: N movies, 9 columns in GENRES order.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.special import expit, logit

from mmgenre.config import Config
from mmgenre.labels import GENRES

Cutoff = Annotated[float, Field(ge=0, le=1)]
ThresholdKind = Literal["per_genre", "global"]
# The cut-off of a genre without positive labels.
_DEFAULT_CUTOFF = 0.5
_TEMPERATURES = (0.05, 20.0)
# Probabilities are clipped to this distance from 0 and 1, so that their log-odds are finite.
_SMALLEST = 1e-12
# Weight of the penalty that pulls a genre's calibration towards the identity.
_PENALTY = 5.0


class Thresholds(Config):
    """A model's cut-offs of both kinds, and the kind to use."""

    per_genre: tuple[Cutoff, ...] = Field(
        min_length=len(GENRES), max_length=len(GENRES), description="one cut-off per genre, in GENRES order"
    )
    global_threshold: Cutoff = Field(description="one cut-off for all genres")
    kind: ThresholdKind = Field(description="the kind to use")

    def cutoffs(self) -> np.ndarray:
        """The cut-offs of the kind to use, shape (9,)."""
        if self.kind == "per_genre":
            return np.array(self.per_genre)
        return np.full(len(GENRES), self.global_threshold)


class Calibration(Config):
    """A temperature and cut-offs, fitted together."""

    thresholds: Thresholds
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before the sigmoid")


def calibrate(
    logits: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> Calibration:
    """Fit the temperature, then the cut-offs; see `fit_temperature` and `fit_thresholds`."""
    temperature = fit_temperature(logits, labels)
    thresholds = fit_thresholds(probabilities(logits, temperature), labels, groups=groups, seed=seed)
    return Calibration(thresholds=thresholds, temperature=temperature)


def checked_arrays(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (probabilities or logits) as float64 and labels as bool, both of shape (N, 9).

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels) != 0
    if values.shape != labels.shape or values.shape[1:] != (len(GENRES),):
        raise ValueError(
            f"values have shape {values.shape}, labels {labels.shape}; expected (N, {len(GENRES)}) for both"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values)):,} values are not finite")
    return values, labels


def decide(probabilities: np.ndarray, cutoffs: np.ndarray | float) -> np.ndarray:
    """Predicted genres, shape (N, 9), bool: probability >= cut-off.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        cutoffs: shape (9,) or (N, 9), or one for all genres.
    """
    # float64, because numpy would round a cut-off to the probabilities' float32, possibly onto one of them.
    return np.asarray(probabilities, np.float64) >= cutoffs


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each genre's cut-off that maximizes the genre's expected F1.

    On a few hundred movies, the cut-off with the highest F1 overfits. So each genre is first calibrated
    (Platt scaling, regularized towards the identity). The best cut-off for calibrated probabilities is half of the
    highest F1 they allow.

    Args:
        probabilities: shape (N, 9), in [0, 1], columns in GENRES order.
        labels: shape (N, 9), 0 or 1.

    Returns:
        Shape (9,): predict a genre if its probability >= its cut-off. A genre without positive labels gets 0.5.

    Raises:
        ValueError: the shapes differ, or a probability is not finite.

    Source: Lipton, Elkan, Narayanaswamy 2014, arXiv:1402.1892; Platt 1999, "Probabilistic Outputs for Support Vector
    Machines".
    """
    probabilities, labels = checked_arrays(probabilities, labels)
    cutoffs = np.full(len(GENRES), _DEFAULT_CUTOFF)
    for column in np.flatnonzero(labels.any(axis=0)):
        log_odds = logit(np.clip(probabilities[:, column], _SMALLEST, 1 - _SMALLEST))
        slope, shift = _platt_scaling(log_odds, labels[:, column])
        half = _highest_expected_f1(expit(slope * log_odds + shift)) / 2
        cutoffs[column] = expit((logit(half) - shift) / slope)
    return cutoffs


def best_global_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The single cut-off that maximizes macro F1 (the mean of the genres' F1).

    The search is exact; the result is midway between the two scores it separates, or 0.5 without positive labels. There
    is no regularization: with nine times as many decisions there is less to overfit. Takes the arguments of
    `best_thresholds` and raises its errors.
    """
    probabilities, labels = checked_arrays(probabilities, labels)
    if not labels.any():
        return _DEFAULT_CUTOFF
    scores, f1 = _f1_curves(probabilities, labels)
    # Lowering the cut-off by one score changes one genre's F1, so macro F1 is the cumulative sum of the changes.
    changes = np.diff(f1, axis=0, prepend=0) / len(GENRES)
    order = np.argsort(-scores, axis=None, kind="stable")
    return _best_cutoff(scores.ravel()[order], np.cumsum(changes.ravel()[order]))


def fit_thresholds(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    folds: int = 5,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Thresholds:
    """Fit cut-offs of both kinds on all movies, and choose the kind that generalizes better.

    Nine cut-offs always look better on the movies they were fitted on. So the kind is chosen by macro F1 on held-out
    folds (see `HeldOutDecisions`); a tie goes to the global cut-off.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        labels: shape (N, 9), 0 or 1.
        folds: number of folds, at least 2.
        groups: int, shape (N,): movies with the same number, such as those with equal plots, share a fold; None: each
            movie is a group of its own.
        seed: seed of the assignment of movies to folds.

    Raises:
        ValueError: the shapes differ, a probability is not finite, or there are no movies.
    """
    return Thresholds(
        per_genre=tuple(best_thresholds(probabilities, labels).tolist()),
        global_threshold=best_global_threshold(probabilities, labels),
        kind=HeldOutDecisions.of(probabilities, labels, folds=folds, groups=groups, seed=seed).better,
    )


@dataclass(frozen=True)
class HeldOutDecisions:
    """Cross-validated decisions: each movie's cut-offs were fitted on the other folds. Shape (N, 9), bool.

    Their score estimates the score on other movies. It is computed over all folds at once, because a single fold may
    hold no movie of a genre (Forman, Scholz 2010, "Apples-to-Apples in Cross-Validation Studies").

    Args:
        per_genre: decisions with one cut-off per genre.
        with_global: decisions with one cut-off for all genres.
        better: the kind with the higher macro F1.
    """

    per_genre: np.ndarray
    with_global: np.ndarray
    better: ThresholdKind

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        labels: np.ndarray,
        *,
        folds: int = 5,
        groups: np.ndarray | None = None,
        seed: int = 0,
    ) -> "HeldOutDecisions":
        """Takes the arguments of `fit_thresholds` and raises its errors."""
        probabilities, labels = checked_arrays(probabilities, labels)
        _require_movies(labels)
        group = _numbered(np.arange(len(labels)) if groups is None else groups)
        fold = np.random.default_rng(seed).permutation(np.arange(group.max() + 1) % folds)[group]
        per_genre, with_global = np.zeros_like(labels), np.zeros_like(labels)
        for number in np.unique(fold):
            out = fold == number
            fitted_on = probabilities[~out], labels[~out]
            per_genre[out] = decide(probabilities[out], best_thresholds(*fitted_on))
            with_global[out] = decide(probabilities[out], best_global_threshold(*fitted_on))
        is_better = _macro_f1(labels, per_genre) > _macro_f1(labels, with_global)
        return cls(per_genre, with_global, "per_genre" if is_better else "global")

    @property
    def decided(self) -> np.ndarray:
        """The decisions of the better kind."""
        return self.per_genre if self.better == "per_genre" else self.with_global


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimizes the mean binary cross-entropy of sigmoid(logits / T), between 0.05 and 20.

    Above 1 the model was overconfident, below 1 underconfident.

    Args:
        logits: shape (N, 9).
        labels: shape (N, 9), 0 or 1.

    Raises:
        ValueError: the shapes differ, a logit is not finite, or there are no movies.

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - slow to import

    logits, labels = checked_arrays(logits, labels)
    _require_movies(labels)

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - scaled * labels))

    found = minimize_scalar(cross_entropy, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def probabilities(logits: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """sigmoid(logits / temperature), shape (N, 9), float64. The temperature is a number, or has shape (N, 1)."""
    return expit(np.asarray(logits, np.float64) / temperature)


def _numbered(groups: np.ndarray) -> np.ndarray:
    """The groups numbered from 0 in the order of their first movies, shape (N,)."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group]


def _f1_curves(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each genre's scores in falling order, and its F1 with the cut-off at each score; shape (N, 9) both."""
    order = np.argsort(-probabilities, axis=0, kind="stable")
    scores = np.take_along_axis(probabilities, order, axis=0)
    hits = np.cumsum(np.take_along_axis(labels, order, axis=0), axis=0)
    predicted = np.arange(1, len(labels) + 1)[:, None]
    return scores, 2 * hits / (predicted + labels.sum(axis=0))


def _best_cutoff(scores: np.ndarray, f1: np.ndarray) -> float:
    """The cut-off midway between the score with the highest F1 and the next lower score; scores are falling."""
    separable = np.append(scores[1:] < scores[:-1], True)
    best = int(np.argmax(np.where(separable, f1, -1)))
    lower = scores[best + 1] if best + 1 < len(scores) else 0.0
    middle = (scores[best] + lower) / 2
    # The mean of two adjacent floats may round to the lower one.
    return float(middle if middle > lower else scores[best])


def _macro_f1(labels: np.ndarray, decided: np.ndarray) -> float:
    from sklearn.metrics import f1_score  # noqa: PLC0415 - slow to import

    return float(f1_score(labels, decided, average="macro", zero_division=0))


def _platt_scaling(log_odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and shift that calibrate one genre's log-odds, shape (N,)."""
    from scipy.optimize import minimize  # noqa: PLC0415 - slow to import

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        """The penalized cross-entropy and its gradient, at a log-slope and a shift."""
        steep = np.exp(line[0]) * log_odds
        scaled = steep + line[1]
        value = np.sum(np.logaddexp(0, scaled) - scaled * labels) + _PENALTY * np.sum(line**2)
        excess = expit(scaled) - labels
        return float(value), np.array([np.sum(excess * steep), np.sum(excess)]) + 2 * _PENALTY * line

    # Not L-BFGS-B: with two variables it spends its time synchronizing BLAS threads.
    log_slope, shift = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float(np.exp(log_slope)), float(shift)


def _highest_expected_f1(chances: np.ndarray) -> float:
    """The highest expected F1 over all cut-offs, given calibrated probabilities, shape (N,)."""
    falling = np.sort(chances)[::-1]
    num_predicted = np.arange(1, len(falling) + 1)
    return float(np.max(2 * np.cumsum(falling) / (num_predicted + falling.sum())))


def _require_movies(labels: np.ndarray) -> None:
    if not len(labels):
        raise ValueError("no movies to fit on")
