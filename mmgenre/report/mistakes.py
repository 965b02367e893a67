"""The decisions that a model was most sure of, and that are not what IMDb says."""

from typing import NamedTuple

import numpy as np


class Mistake(NamedTuple):
    """One wrong decision: of which movie, about which genre, both as places."""

    movie: int
    genre: int


def most_confident(
    probabilities: np.ndarray, decided: np.ndarray, labels: np.ndarray, number: int
) -> tuple[list[Mistake], list[Mistake]]:
    """The worst mistakes of each kind, the worst first, one of each kind for a movie.

    Args:
        probabilities: shape (N, 9); movies of which one is NaN have no prediction, and make no mistake.
        decided: shape (N, 9), 0 or 1.
        labels: shape (N, 9), 0 or 1.
        number: of each kind, at the most.

    Returns:
        Genres predicted with the highest probabilities that the movies do not have, and genres that movies have which
        were not predicted and have the lowest probabilities.
    """
    given, has = np.asarray(decided) != 0, np.asarray(labels) != 0
    chances = np.asarray(probabilities, np.float64)
    is_known = np.isfinite(chances).all(axis=1, keepdims=True)
    return (
        _worst(np.where(given & ~has & is_known, -chances, np.inf), number),
        _worst(np.where(has & ~given & is_known, chances, np.inf), number),
    )


def _worst(badness: np.ndarray, number: int) -> list[Mistake]:
    """Places of the lowest values that are finite, one in a row, the first row of equals."""
    genres = badness.argmin(axis=1)
    lowest = badness[np.arange(len(badness)), genres]
    order = np.argsort(lowest, kind="stable")[:number]
    return [Mistake(int(movie), int(genres[movie])) for movie in order if np.isfinite(lowest[movie])]
