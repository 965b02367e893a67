"""The nine genres, in the order that every label vector, logit and threshold uses."""

from collections.abc import Iterable

import numpy as np

GENRES = ("Action", "Adventure", "Comedy", "Crime", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller")
_COLUMN = {genre: column for column, genre in enumerate(GENRES)}


def encode(genres: Iterable[str]) -> np.ndarray:
    """Multi-hot labels, shape (9,), float32; genres outside GENRES are ignored."""
    labels = np.zeros(len(GENRES), np.float32)
    labels[[_COLUMN[genre] for genre in genres if genre in _COLUMN]] = 1
    return labels


def decode(labels: np.ndarray) -> list[str]:
    """Names of the genres whose label is non-zero, in GENRES order; `labels` has shape (9,)."""
    return [genre for genre, label in zip(GENRES, labels, strict=True) if label]
