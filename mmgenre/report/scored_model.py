"""One model's scored predictions: scores and intervals per genre, and the thresholds that decided."""

from dataclasses import dataclass

import numpy as np

from mmgenre.evaluation.job import ScoredPredictions
from mmgenre.report.thresholds import ThresholdsInUse
from mmgenre.report.training_section import TrainingRecord
from mmgenre.scoring.metrics import Bootstrap, GenreScores, bootstrap_weights

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ScoredModel:
    """A model and how it scores.

    Args:
        predictions: its scores, and the predictions they were computed from.
        intervals: of each genre's precision, recall and f1, by score; shape (9, 2), see `genre_intervals`.
        thresholds: that turned probabilities into genres.
        training: from its checkpoint; None: no checkpoint was given.
    """

    predictions: ScoredPredictions
    intervals: dict[str, np.ndarray]
    thresholds: ThresholdsInUse
    training: TrainingRecord | None

    @property
    def genres(self) -> tuple[GenreScores, ...]:
        """Scores of each genre."""
        return self.predictions.report.scores.genres

    @property
    def reads(self) -> str:
        """The model's inputs: plot, poster or both."""
        return UNKNOWN if self.training is None else self.training.reads


def genre_intervals(decided: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """Bootstrap each genre's precision, recall and F1.

    Resamples the same movies as `metrics.resampled_scores`, so that the F1 intervals are equal.

    Args:
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
        bootstrap: number of resamples, and seed.

    Returns:
        By score: 95 % percentile intervals, shape (9, 2): lower and upper end, in GENRES order.
    """
    predicted, actual = np.asarray(decided) != 0, np.asarray(labels) != 0
    per_movie = np.concatenate([predicted & actual, predicted, actual], axis=1).astype(np.float64)
    counts = np.concatenate([weights @ per_movie for weights in bootstrap_weights(len(actual), bootstrap)])
    hits, num_predicted, support = np.split(counts, 3, axis=1)
    return {
        "precision": _interval(hits, num_predicted),
        "recall": _interval(hits, support),
        "f1": _interval(2 * hits, num_predicted + support),
    }


def _interval(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """95 % intervals, shape (9, 2), of the ratios of R resamples, both arguments of shape (R, 9)."""
    ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return np.quantile(ratios, (0.025, 0.975), axis=0).T
