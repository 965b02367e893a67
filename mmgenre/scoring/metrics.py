"""Scores of predictions, with bootstrap confidence intervals.

Throughout: N movies, 9 columns in GENRES order, R resamples. Scores agree with scikit-learn's; a ratio with denominator
0 is 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from mmgenre.config import Config
from mmgenre.labels import GENRES
from mmgenre.scoring.curves import reliability
from mmgenre.scoring.thresholds import HeldOutDecisions, checked_arrays, decide

# Bootstrap weights drawn at once: 8 MB. The arrays computed from them are no larger.
_BATCH = 1_000_000

# Validation scores by which epochs and the trials of a search are ranked.
Objective = Literal["macro_f1", "mean_average_precision", "f1_of_averages", "micro_f1"]


class Average(Config):
    """Precision, recall and F1 under one kind of averaging."""

    precision: float
    recall: float
    f1: float


class GenreScores(Config):
    """Scores of one genre."""

    genre: str
    precision: float
    recall: float
    f1: float
    average_precision: float | None = Field(description="null if no movie has the genre")
    support: int = Field(description="number of movies that have the genre")
    predicted: int = Field(description="number of movies predicted to have it")


class Scores(Config):
    """All scores of one set of predictions."""

    micro: Average = Field(description="over all decisions")
    macro: Average = Field(description="mean over genres; the F1 is the mean of the genres' F1")
    weighted: Average = Field(description="mean over genres, weighted by their support")
    samples: Average = Field(description="mean over movies")
    mean_average_precision: float = Field(description="mean over the genres that at least one movie has")
    f1_of_averages: float = Field(
        description="harmonic mean of macro precision and macro recall at the global threshold, independent of the "
        "predicted genres; never below macro F1 for the same decisions, and often published in its place "
        "(Opitz, Burst 2019, arXiv:1911.03347)"
    )
    global_threshold: float = Field(description="the cut-off used for f1_of_averages")
    hamming_loss: float = Field(description="share of wrong decisions")
    subset_accuracy: float = Field(description="share of movies with all nine decisions right")
    expected_calibration_error: float
    genres: tuple[GenreScores, ...]


class Bootstrap(Config):
    """Bootstrap settings."""

    resamples: int = Field(default=1000, ge=1)
    seed: int = 0


def scores(probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, global_threshold: float) -> Scores:
    """All scores of some predictions.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        decided: predicted genres, shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
        global_threshold: the cut-off used for `f1_of_averages`.

    Raises:
        ValueError: the shapes differ, a probability is not finite, or there are no movies.
    """
    from sklearn.metrics import accuracy_score, hamming_loss  # noqa: PLC0415 - slow to import

    probabilities, decided, labels = _checked(probabilities, decided, labels)
    per_genre = _per_genre(probabilities, decided, labels)
    precisions = [genre.average_precision for genre in per_genre if genre.average_precision is not None]
    return Scores(
        micro=_average(decided, labels, "micro"),
        macro=_average(decided, labels, "macro"),
        weighted=_average(decided, labels, "weighted"),
        samples=_average(decided, labels, "samples"),
        mean_average_precision=float(np.mean(precisions)) if precisions else 0.0,
        f1_of_averages=f1_of_averages(decide(probabilities, global_threshold), labels),
        global_threshold=global_threshold,
        hamming_loss=hamming_loss(labels, decided),
        subset_accuracy=accuracy_score(labels, decided),
        expected_calibration_error=expected_calibration_error(probabilities, labels),
        genres=per_genre,
    )


def held_out_scores(
    probabilities: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """The value of each Objective under cross-validated thresholds; see `HeldOutDecisions`.

    Takes the arguments of `fit_thresholds` and raises its errors.
    """
    held_out = HeldOutDecisions.of(probabilities, labels, groups=groups, seed=seed)
    values = scores(probabilities, held_out.decided, labels, 0.5)
    return {
        "macro_f1": values.macro.f1,
        "mean_average_precision": values.mean_average_precision,
        "f1_of_averages": f1_of_averages(held_out.with_global, labels),
        "micro_f1": values.micro.f1,
    }


def f1_of_averages(decided: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of macro precision and macro recall of decisions, shape (N, 9); see `Scores`."""
    macro = _average(decided, labels, "macro")
    return float(_harmonic_mean(np.array(macro.precision), np.array(macro.recall)))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Distance between probabilities and observed frequencies; 0 if, for example, 30 % of predictions of 0.3 are true.

    All N x 9 predictions are sorted into bins of equal width; see `curves.Reliability.error`.

    Raises:
        ValueError: the shapes differ, or a probability is not finite.

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, for the probability of the positive class.
    """
    probabilities, labels = checked_arrays(probabilities, labels)
    return reliability(probabilities, labels, bins).error


def confidence_intervals(resampled: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals (low, high) of resampled scores, by name.

    They measure how much a score varies between samples of movies, not between training runs.
    """
    limits = {name: np.quantile(values, (0.025, 0.975)) for name, values in resampled.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}


def p_value(differences: np.ndarray) -> float:
    """Two-sided bootstrap test of the hypothesis that the difference is 0, from resampled differences, shape (R,).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 15.4; adding 1 keeps p above 0.
    """
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def resampled_scores(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, global_threshold: float, bootstrap: Bootstrap
) -> dict[str, np.ndarray]:
    """Scores on bootstrap samples of the movies. The same seed and N always draw the same samples.

    Takes the arguments of `scores` and raises its errors.

    Returns:
        Shape (R,) each, by name: micro_f1, macro_f1, weighted_f1, samples_f1, mean_average_precision, f1_of_averages,
        and each genre's F1 under the genre's name.
    """
    probabilities, decided, labels = _checked(probabilities, decided, labels)
    single = decide(probabilities, global_threshold)
    f1_per_movie = _ratio(2.0 * (decided & labels).sum(axis=1), (decided.sum(axis=1) + labels.sum(axis=1)))
    per_movie = np.column_stack(
        [decided & labels, decided, single & labels, single, labels, f1_per_movie],
    ).astype(np.float64)
    ranked = [_rank(probabilities[:, column], labels[:, column]) for column in range(len(GENRES))]
    batches = [
        _scores_of_means(weights @ per_movie / len(labels), _average_precisions(ranked, weights))
        for weights in bootstrap_weights(len(labels), bootstrap)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _checked(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probabilities, labels = checked_arrays(probabilities, labels)
    decided = np.asarray(decided) != 0
    if decided.shape != labels.shape:
        raise ValueError(f"decisions have shape {decided.shape}, labels {labels.shape}; expected the same shape")
    if not len(labels):
        raise ValueError("no movies to score")
    return probabilities, decided, labels


def _average(decided: np.ndarray, labels: np.ndarray, average: str) -> Average:
    from sklearn.metrics import precision_recall_fscore_support  # noqa: PLC0415 - slow to import

    precision, recall, f1, _ = precision_recall_fscore_support(labels, decided, average=average, zero_division=0)
    return Average(precision=precision, recall=recall, f1=f1)


def _per_genre(probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> tuple[GenreScores, ...]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support  # noqa: PLC0415 - slow to import

    precision, recall, f1, support = precision_recall_fscore_support(labels, decided, average=None, zero_division=0)
    return tuple(
        GenreScores(
            genre=genre,
            precision=precision[column],
            recall=recall[column],
            f1=f1[column],
            average_precision=average_precision_score(labels[:, column], probabilities[:, column])
            if support[column]
            else None,
            support=support[column],
            predicted=decided[:, column].sum(),
        )
        for column, genre in enumerate(GENRES)
    )


def bootstrap_weights(num_movies: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """How often each bootstrap sample draws each movie, in batches of shape (R, N), float64; deterministic."""
    rng = np.random.default_rng(bootstrap.seed)
    size = max(1, _BATCH // num_movies)
    for start in range(0, bootstrap.resamples, size):
        rows = min(size, bootstrap.resamples - start)
        drawn = rng.integers(num_movies, size=(rows, num_movies)) + np.arange(rows)[:, None] * num_movies
        counts = np.bincount(drawn.ravel(), minlength=rows * num_movies)
        yield counts.reshape(rows, num_movies).astype(np.float64)


def _scores_of_means(means: np.ndarray, average_precisions: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by name, shape (R,) each.

    Args:
        means: weighted means over movies of hits, predictions, hits and predictions at the global threshold, labels
            (9 columns each), and the F1 of each movie: shape (R, 46).
        average_precisions: shape (R, 9).
    """
    hits, predicted, single_hits, single_predicted, support = np.split(means[:, :-1], 5, axis=1)
    f1 = _ratio(2 * hits, predicted + support)
    return {
        "micro_f1": _ratio(2 * hits.sum(axis=1), predicted.sum(axis=1) + support.sum(axis=1)),
        "macro_f1": f1.mean(axis=1),
        "weighted_f1": _ratio((f1 * support).sum(axis=1), support.sum(axis=1)),
        "samples_f1": means[:, -1],
        "mean_average_precision": _ratio(average_precisions.sum(axis=1), (support > 0).sum(axis=1)),
        "f1_of_averages": _harmonic_mean(
            _ratio(single_hits, single_predicted).mean(axis=1), _ratio(single_hits, support).mean(axis=1)
        ),
    } | {genre: f1[:, column] for column, genre in enumerate(GENRES)}


@dataclass(frozen=True)
class _Ranking:
    """One genre's movies in order of falling probability, with the ranks of its P positives.

    A positive counts at the end of its tie, because movies with equal probability are predicted together.
    """

    order: np.ndarray  # (N,): movies
    positives: np.ndarray  # (P,): ranks of the positives
    tie_ends: np.ndarray  # (P,): last rank with the same probability
    last_positives: np.ndarray  # (P,): index, among the positives, of the last one with the same probability


def _rank(probabilities: np.ndarray, labels: np.ndarray) -> _Ranking:
    order = np.argsort(-probabilities, kind="stable")
    falling = -probabilities[order]
    positives = np.flatnonzero(labels[order])
    tie_ends = np.searchsorted(falling, falling[positives], side="right") - 1
    last_positives = np.searchsorted(positives, tie_ends, side="right") - 1
    return _Ranking(order, positives, tie_ends, last_positives)


def _average_precisions(rankings: list[_Ranking], weights: np.ndarray) -> np.ndarray:
    """Average precision of each genre in each bootstrap sample, shape (R, 9); 0 for a genre without positives.

    Ties are handled as in scikit-learn.
    """
    columns = []
    for ranking in rankings:
        # np.take is several times faster than indexing the second axis with an array.
        ordered = np.take(weights, ranking.order, axis=1)
        gained = np.take(ordered, ranking.positives, axis=1)
        predicted = np.take(np.cumsum(ordered, axis=1), ranking.tie_ends, axis=1)
        hits = np.take(np.cumsum(gained, axis=1), ranking.last_positives, axis=1)
        columns.append(_ratio((gained * _ratio(hits, predicted)).sum(axis=1), gained.sum(axis=1)))
    return np.stack(columns, axis=1)


def _harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise ratio; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=denominator > 0)
