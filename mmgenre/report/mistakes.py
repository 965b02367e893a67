"""A model's most confident mistakes, as movie cards."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmgenre.evaluation.job import GroundTruth
from mmgenre.labels import GENRES, decode
from mmgenre.report.blocks import Block, GenreOutcome, MovieCard, MovieList, Paragraph
from mmgenre.report.movies import MovieCards
from mmgenre.report.scored_model import ScoredModel


class Mistake(NamedTuple):
    """One wrong decision, as the indices of movie and genre."""

    movie: int
    genre: int


def most_confident(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, number: int
) -> tuple[list[Mistake], list[Mistake]]:
    """Find the most confident mistakes, at most one of each kind per movie.

    Args:
        probabilities: shape (N, 9); rows with NaN are movies without a prediction, which are skipped.
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
        number: the maximum of each kind.

    Returns:
        False positives, the highest probability first, and false negatives, the lowest probability first.
    """
    predicted, actual = np.asarray(decided) != 0, np.asarray(labels) != 0
    probabilities = np.asarray(probabilities, np.float64)
    has_prediction = np.isfinite(probabilities).all(axis=1, keepdims=True)
    return (
        _lowest(np.where(predicted & ~actual & has_prediction, -probabilities, np.inf), number),
        _lowest(np.where(actual & ~predicted & has_prediction, probabilities, np.inf), number),
    )


def _lowest(values: np.ndarray, number: int) -> list[Mistake]:
    """Indices of the lowest finite values, at most one per row; ties go to the first row."""
    genres = values.argmin(axis=1)
    lowest = values[np.arange(len(values)), genres]
    order = np.argsort(lowest, kind="stable")[:number]
    return [Mistake(int(movie), int(genres[movie])) for movie in order if np.isfinite(lowest[movie])]


class Mistakes:
    """The most confident mistakes of one model.

    Args:
        truth: the scored movies.
        model: that made the mistakes.
        number: the maximum of each kind.
    """

    def __init__(self, truth: GroundTruth, model: ScoredModel, number: int):
        predictions = model.predictions
        self._truth, self._decided = truth, predictions.decided
        self._probabilities = np.where(predictions.is_predicted[:, None], predictions.probabilities, np.nan)
        self._false_positives, self._false_negatives = most_confident(
            self._probabilities, predictions.decided, truth.labels, number
        )

    @property
    def ids(self) -> list[str]:
        """Ids of the movies."""
        mistakes = (*self._false_positives, *self._false_negatives)
        ids: list[str] = self._truth.ids.take(pa.array([one.movie for one in mistakes], pa.int64())).to_pylist()
        return ids

    def blocks(self, cards: MovieCards) -> list[Block]:
        """A list of movies for each kind of mistake."""
        return [
            self._block("False positives with the highest probabilities.", self._false_positives, cards),
            self._block("False negatives with the lowest probabilities.", self._false_negatives, cards),
        ]

    def _block(self, caption: str, mistakes: Sequence[Mistake], cards: MovieCards) -> Block:
        if not mistakes:
            return Paragraph(f"{caption} There are none.")
        return MovieList(caption, [self._card(mistake, cards) for mistake in mistakes])

    def _card(self, mistake: Mistake, cards: MovieCards) -> MovieCard:
        probabilities, decided = self._probabilities[mistake.movie], self._decided[mistake.movie]
        labels = self._truth.labels[mistake.movie] != 0
        columns = sorted(np.flatnonzero(labels | decided), key=lambda column: -probabilities[column])
        outcomes = tuple(
            GenreOutcome(
                genre=GENRES[column],
                probability=float(probabilities[column]),
                outcome=_outcome(labels[column], decided[column]),
                is_highlighted=column == mistake.genre,
            )
            for column in columns
        )
        return cards.card(self._truth.ids[mistake.movie].as_py(), decode(labels), outcomes)


def _outcome(is_label: bool, is_predicted: bool) -> str:
    if is_label:
        return "true positive" if is_predicted else "false negative"
    return "false positive"
