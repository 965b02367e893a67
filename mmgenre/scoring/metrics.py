"""How good predictions are: scores, and how far they would move on other movies.

Everywhere N movies, 9 columns in GENRES order, R resamples. Point values are scikit-learn's; a ratio with nothing below
the line is 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.metrics import accuracy_score, average_precision_score, hamming_loss, precision_recall_fscore_support

from mmgenre.config import Config
from mmgenre.labels import GENRES
from mmgenre.scoring.thresholds import HeldOut, aligned, decide

# Weights drawn at once: 8 MB, and the arrays made of them at most as much each.
_BATCH = 1_000_000

# What the validation movies can say of a model: of its epochs, and of trials of a search.
Objective = Literal["macro_f1", "mean_average_precision", "f1_of_averages", "micro_f1"]


class Average(Config):
    """One way of averaging over genres or movies."""

    precision: float
    recall: float
    f1: float


class GenreScores(Config):
    """One genre by itself."""

    genre: str
    precision: float
    recall: float
    f1: float
    average_precision: float | None = Field(description="none for a genre that no movie has")
    support: int = Field(description="movies that have the genre")
    predicted: int = Field(description="movies predicted to have it")


class Scores(Config):
    """Every score of one set of predictions."""

    micro: Average = Field(description="over all decisions at once")
    macro: Average = Field(description="mean over genres; its F1 is the mean of the genres' F1")
    weighted: Average = Field(description="mean over genres, weighted by their support")
    samples: Average = Field(description="mean over movies")
    mean_average_precision: float = Field(description="mean over the genres that a movie has")
    f1_of_averages: float = Field(
        description="harmonic mean of macro precision and macro recall at the global threshold, whatever was decided; "
        "never below the macro F1 of the same decisions, and what is often published in its place "
        "(Opitz, Burst 2019, arXiv:1911.03347)"
    )
    global_threshold: float = Field(description="the cut-off of f1_of_averages")
    hamming_loss: float = Field(description="share of wrong decisions")
    subset_accuracy: float = Field(description="share of movies with every genre right")
    expected_calibration_error: float
    genres: tuple[GenreScores, ...]


class Bootstrap(Config):
    """How intervals are drawn."""

    resamples: int = Field(default=1000, ge=1)
    seed: int = 0


def scores(probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, global_threshold: float) -> Scores:
    """Every score of the decisions and of the probabilities they come from.

    Args:
        probabilities: shape (N, 9), in [0, 1].
        decided: shape (N, 9), the genres predicted by whatever rule.
        labels: shape (N, 9), 0 or 1.
        global_threshold: the one cut-off of `f1_of_averages`.

    Raises:
        ValueError: the shapes differ, a probability is not finite, or there are no movies.
    """
    probabilities, decided, labels = _checked(probabilities, decided, labels)
    per_genre = _per_genre(probabilities, decided, labels)
    precisions = [one.average_precision for one in per_genre if one.average_precision is not None]
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


def held_out_scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Each Objective, of movies at thresholds fitted on other folds of the same movies; see `HeldOut`.

    Arguments and errors are those of `fit_thresholds`.
    """
    held_out = HeldOut.of(probabilities, labels)
    found = scores(probabilities, held_out.decided, labels, 0.5)
    return {
        "macro_f1": found.macro.f1,
        "mean_average_precision": found.mean_average_precision,
        "f1_of_averages": f1_of_averages(held_out.together, labels),
        "micro_f1": found.micro.f1,
    }


def f1_of_averages(decided: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of macro precision and macro recall of decisions, shape (N, 9); see `Scores`."""
    found = _average(decided, labels, "macro")
    return float(_harmonic_mean(np.array(found.precision), np.array(found.recall)))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """How far probabilities are from frequencies: 0 when of all predictions of 30 % three in ten come true.

    All N x 9 predictions go into bins of equal width; the result is the mean over predictions of the distance between
    their bin's mean probability and its share of true labels.

    Raises:
        ValueError: the shapes differ, or a probability is not finite.

    Source: Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, for the probability of the positive class.
    """
    probabilities, labels = aligned(probabilities, labels)
    columns = np.minimum(probabilities.ravel() * bins, bins - 1).astype(np.int64)
    excess = np.bincount(columns, weights=(probabilities - labels).ravel(), minlength=bins)
    return float(np.abs(excess).sum() / max(labels.size, 1))


def intervals(resampled: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals, (low, high), of resampled scores, by name.

    They say how far a score would move on other movies of the same kind; not how far on another training run.
    """
    limits = {name: np.quantile(values, (0.025, 0.975)) for name, values in resampled.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}


def p_value(differences: np.ndarray) -> float:
    """Two-sided bootstrap test of a difference of 0, from resampled differences, shape (R,).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 15.4; the added ones keep it above 0.
    """
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def resampled_scores(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, global_threshold: float, bootstrap: Bootstrap
) -> dict[str, np.ndarray]:
    """Scores of movies drawn with replacement; the same movies for all predictions, where seed and N are the same.

    Arguments and errors are those of `scores`.

    Returns:
        Shape (R,) each, by name: micro_f1, macro_f1, weighted_f1, samples_f1, mean_average_precision, f1_of_averages,
        and for each genre's F1 the name of the genre.
    """
    probabilities, decided, labels = _checked(probabilities, decided, labels)
    single = decide(probabilities, global_threshold)
    of_movie = _ratio(2.0 * (decided & labels).sum(axis=1), (decided.sum(axis=1) + labels.sum(axis=1)))
    per_movie = np.column_stack(
        [decided & labels, decided, single & labels, single, labels, of_movie],
    ).astype(np.float64)
    ranked = [_rank(probabilities[:, column], labels[:, column]) for column in range(len(GENRES))]
    batches = [
        _scores_of_means(weights @ per_movie / len(labels), _average_precisions(ranked, weights))
        for weights in resamples(len(labels), bootstrap)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _checked(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probabilities, labels = aligned(probabilities, labels)
    decided = np.asarray(decided) != 0
    if decided.shape != labels.shape:
        raise ValueError(f"decisions of shape {decided.shape}, labels {labels.shape}; expected the same")
    if not len(labels):
        raise ValueError("no movies to score")
    return probabilities, decided, labels


def _average(decided: np.ndarray, labels: np.ndarray, average: str) -> Average:
    precision, recall, f1, _ = precision_recall_fscore_support(labels, decided, average=average, zero_division=0)
    return Average(precision=precision, recall=recall, f1=f1)


def _per_genre(probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray) -> tuple[GenreScores, ...]:
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


def resamples(num_movies: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """How often each movie is drawn, in batches of shape (R, N), float64; always the same for the same arguments."""
    rng = np.random.default_rng(bootstrap.seed)
    size = max(1, _BATCH // num_movies)
    for start in range(0, bootstrap.resamples, size):
        rows = min(size, bootstrap.resamples - start)
        drawn = rng.integers(num_movies, size=(rows, num_movies)) + np.arange(rows)[:, None] * num_movies
        counts = np.bincount(drawn.ravel(), minlength=rows * num_movies)
        yield counts.reshape(rows, num_movies).astype(np.float64)


def _scores_of_means(means: np.ndarray, average_precisions: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by name, shape (R,) each, from means over movies, shape (R, 46), and shape (R, 9)."""
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
    """One genre's movies by falling probability, and where its P positives stand in that order.

    A positive counts at the end of its tie, as all movies of the same probability are predicted together.
    """

    order: np.ndarray  # (N,): movies
    positives: np.ndarray  # (P,): places of the positives
    tie_ends: np.ndarray  # (P,): the last place with the same probability
    last_positives: np.ndarray  # (P,): the last positive, among the positives, with the same probability


def _rank(probabilities: np.ndarray, labels: np.ndarray) -> _Ranking:
    order = np.argsort(-probabilities, kind="stable")
    falling = -probabilities[order]
    positives = np.flatnonzero(labels[order])
    tie_ends = np.searchsorted(falling, falling[positives], side="right") - 1
    last_positives = np.searchsorted(positives, tie_ends, side="right") - 1
    return _Ranking(order, positives, tie_ends, last_positives)


def _average_precisions(rankings: list[_Ranking], weights: np.ndarray) -> np.ndarray:
    """Shape (R, 9): average precision of each genre when each movie counts as often as it was drawn.

    Ties are handled as in scikit-learn; 0 for a genre without a positive.
    """
    columns = []
    for ranking in rankings:
        # np.take: indexing the second axis with an array is several times slower.
        ordered = np.take(weights, ranking.order, axis=1)
        gained = np.take(ordered, ranking.positives, axis=1)
        predicted = np.take(np.cumsum(ordered, axis=1), ranking.tie_ends, axis=1)
        hits = np.take(np.cumsum(gained, axis=1), ranking.last_positives, axis=1)
        columns.append(_ratio((gained * _ratio(hits, predicted)).sum(axis=1), gained.sum(axis=1)))
    return np.stack(columns, axis=1)


def _harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise, 0 where there is nothing below the line."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=denominator > 0)
