"""A balanced choice of movies: no genre above a cap, the rarest genre served first."""

import numpy as np
from pydantic import Field

from mmgenre.config import Config


class BalanceConfig(Config):
    """How many movies of each genre a catalogue holds."""

    max_per_genre: int | None = Field(4000, gt=0, description="movies of one genre at the most; null takes them all")
    seed: int = Field(0, ge=0, lt=2**63, description="another seed chooses other movies")


def choose(numbers: np.ndarray, labels: np.ndarray, max_per_genre: int, seed: int) -> np.ndarray:
    """Which movies a balanced catalogue takes; the order they come in does not matter.

    Genre after genre, the rarest first, takes its movies by a hash of their ids, passing over those
    that carry a genre which is full already.

    Args:
        numbers: shape (N,), integers: the number in each movie's id, all distinct.
        labels: shape (N, 9), bool, columns in GENRES order.
        max_per_genre: the cap.
        seed: stirs the hash.

    Returns:
        Shape (N,), bool. Movies without a genre are all taken: the cap is on genres.
    """
    by_priority = np.argsort(_priority(numbers, seed))
    ranked = labels[by_priority]
    taken = np.logical_not(ranked.any(axis=1))
    room = np.full(labels.shape[1], max_per_genre)
    for genre in np.argsort(ranked.sum(axis=0), kind="stable"):
        # Each turn takes all that is left of the genre, or fills some genre: there are few turns.
        while room[genre] > 0:
            free = ranked[:, genre] & ~taken & ~ranked[:, room == 0].any(axis=1)
            next_ones = np.flatnonzero(free)[: room[genre]]
            if not len(next_ones):
                break
            fitting = (ranked[next_ones].cumsum(axis=0) <= room).all(axis=1)
            next_ones = next_ones[fitting]
            taken[next_ones] = True
            room -= ranked[next_ones].sum(axis=0)
    chosen = np.empty_like(taken)
    chosen[by_priority] = taken
    return chosen


def _priority(numbers: np.ndarray, seed: int) -> np.ndarray:
    return _mix(numbers.astype(np.uint64) ^ _mix(np.array([seed], np.uint64)))


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64: a bijection, so that no two ids tie.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
