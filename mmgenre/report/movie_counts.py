"""What there is to count of movies; N movies, 9 columns in GENRES order."""

import numpy as np

# Plots are counted in bins of words that are equally wide on a logarithmic scale.
_BINS_PER_DECADE = 8


def genres_per_movie(labels: np.ndarray) -> np.ndarray:
    """How many movies have 0, 1, 2, ... genres, up to the most that one has; labels has shape (N, 9)."""
    return np.bincount((labels != 0).sum(axis=1), minlength=2)


def co_occurrence(labels: np.ndarray) -> np.ndarray:
    """How many movies have both genres, shape (9, 9); on the diagonal, how many have the one. Labels: shape (N, 9)."""
    has = (labels != 0).astype(np.int64)
    return has.T @ has


def conditional(counts: np.ndarray) -> np.ndarray:
    """P(column | row): of the movies with the row's genre, the share that has the column's, too.

    Args:
        counts: shape (9, 9), see `co_occurrence`.

    Returns:
        Shape (9, 9); rows of genres that no movie has are NaN.
    """
    totals = np.diag(counts)[:, None].astype(np.float64)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def length_bins(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plots by their length.

    Args:
        words: shape (N,), in each plot; plots of no words are not counted.

    Returns:
        Edges, shape (B + 1,), each 10 ** (1 / 8) times the one before, and counts, shape (B,); both empty where there
        are no plots.
    """
    logs = np.log10(words[words > 0]) * _BINS_PER_DECADE
    if not len(logs):
        return np.zeros(0), np.zeros(0, np.int64)
    # A little lower, so that 10 words, whose logarithm may be rounded down, are in the bin that begins with them.
    places = np.floor(logs + 1e-9).astype(np.int64)
    first, last = places.min(), places.max()
    edges = 10 ** (np.arange(first, last + 2) / _BINS_PER_DECADE)
    return edges, np.bincount(places - first)
