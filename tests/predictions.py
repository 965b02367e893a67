"""Predictions that know something of their labels."""

import numpy as np

from mmgenre.scoring.thresholds import probabilities

RARE_TO_COMMON = np.linspace(0.05, 0.5, 9)


def predictions(num_movies, seed=0, *, levels=None, frequencies=RARE_TO_COMMON, knowledge=2):
    """Probabilities that know something of the labels; `levels` rounds them, which makes ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_movies, 9)) < frequencies
    chances = probabilities(rng.normal(size=labels.shape) + knowledge * labels - 1.5, 1.0)
    return (np.round(chances * levels) / levels if levels else chances), labels.astype(np.float32)


def one_genre(column, rest=0.0):
    """Values of the first genre, the same for the other eight."""
    values = np.full((len(column), 9), float(rest))
    values[:, 0] = column
    return values
