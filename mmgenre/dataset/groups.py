"""Groups of movies that share a plot or a poster, and so belong into one split and one validation fold."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.table import Table

_NOT_A_WORD = re.compile(r"[\W_]+")
_ROWS_PER_BATCH = 500


def normalise(plot: str) -> str:
    """A plot without case, accents, punctuation and spacing, by which equal plots are recognised."""
    plain = unicodedata.normalize("NFKD", plot.casefold())
    return _NOT_A_WORD.sub(" ", "".join(mark for mark in plain if not unicodedata.combining(mark))).strip()


def plot_groups(ids: Sequence[str], plots: Sequence[str | None]) -> list[str]:
    """The group of each movie by its plot alone: the normalised plot, or the id of a movie without words."""
    return [normalise(plot or "") or imdb_id for imdb_id, plot in zip(ids, plots, strict=True)]


def merged_groups(ids: Sequence[str], groups: Sequence[str], posters: Sequence[str | None]) -> list[str]:
    """The group of each movie when groups with the same poster are merged.

    A merged group is named after that of its lowest id, the oldest, so that it rarely changes when movies are added.

    Args:
        ids: of the movies.
        groups: by plot.
        posters: a digest of each movie's poster; None: no poster.
    """
    parents: dict[str, str] = {}
    group_by_poster: dict[str, str] = {}
    for group, poster in zip(groups, posters, strict=True):
        if poster is not None:
            other = _root(parents, group_by_poster.setdefault(poster, group))
            parents[_root(parents, group)] = other
    roots = [_root(parents, group) for group in groups]
    lowest: dict[str, tuple[int, str, str]] = {}
    for root, imdb_id, group in zip(roots, ids, groups, strict=True):
        candidate = (len(imdb_id), imdb_id, group)
        lowest[root] = min(candidate, lowest.get(root, candidate))
    return [lowest[root][2] for root in roots]


def group_numbers(table: Table, split: str, ids: pa.ChunkedArray) -> np.ndarray:
    """The group of each of N movies of a split as a number, shape (N,); equal numbers mean an equal plot or poster.

    Args:
        table: of the schema MOVIES; its images are read in small batches.
        split: of the movies.
        ids: of the movies.
    """
    names: list[str] = []
    plots: list[str | None] = []
    posters: list[str | None] = []
    batches = table.dataset.to_batches(
        columns=["imdb_id", "plot", "image"], filter=pc.field("split") == split, batch_size=_ROWS_PER_BATCH
    )
    for batch in batches:
        names += batch["imdb_id"].to_pylist()
        plots += batch["plot"].to_pylist()
        images = batch["image"].to_pylist()
        posters += [None if image is None else hashlib.sha256(image).hexdigest() for image in images]
    groups = dict(zip(names, merged_groups(names, plot_groups(names, plots), posters), strict=True))
    return np.unique([groups[name] for name in ids.to_pylist()], return_inverse=True)[1]


def _root(parents: dict[str, str], group: str) -> str:
    """The group that a group was merged into; shortens the path to it."""
    root = group
    while (parent := parents.get(root, root)) != root:
        root = parent
    while group != root:
        group, parents[group] = parents.get(group, group), root
    return root
