"""A balanced choice of movies: at most a given number per genre, filling the rarest genre first."""

import numpy as np
from pydantic import Field

from mmgenre.config import Config


class BalanceConfig(Config):
    """Cap on the number of movies per genre."""

    max_per_genre: int | None = Field(4000, gt=0, description="maximum movies per genre; null: no cap")
    seed: int = Field(0, ge=0, lt=2**63, description="random seed of the choice")


def choose(numbers: np.ndarray, labels: np.ndarray, max_per_genre: int, seed: int) -> np.ndarray:
    """Which movies go into a balanced catalogue, independent of their order.

    Starting with the rarest, each genre takes movies in the order of a hash of their ids and skips movies that would
    exceed the cap of any genre.

    Args:
        numbers: the number in each movie's id, shape (N,), distinct integers.
        labels: shape (N, 9), bool, columns in GENRES order.
        max_per_genre: the cap.
        seed: of the hash.

    Returns:
        Shape (N,), bool. Movies without a genre are always chosen, since they count towards no cap.
    """
    by_priority = np.argsort(_priority(numbers, seed))
    ranked = labels[by_priority]
    taken = np.logical_not(ranked.any(axis=1))
    room = np.full(labels.shape[1], max_per_genre)
    for genre in np.argsort(ranked.sum(axis=0), kind="stable"):
        # Each iteration uses up the genre's movies or fills some genre, so there are few.
        while room[genre] > 0:
            free = ranked[:, genre] & ~taken & ~ranked[:, room == 0].any(axis=1)
            candidates = np.flatnonzero(free)[: room[genre]]
            if not len(candidates):
                break
            fits = (ranked[candidates].cumsum(axis=0) <= room).all(axis=1)
            candidates = candidates[fits]
            taken[candidates] = True
            room -= ranked[candidates].sum(axis=0)
    chosen = np.empty_like(taken)
    chosen[by_priority] = taken
    return chosen


def _priority(numbers: np.ndarray, seed: int) -> np.ndarray:
    return _mix(numbers.astype(np.uint64) ^ _mix(np.array([seed], np.uint64)))


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64, a bijection: two ids never get the same hash.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
