"""The rows of a MOVIES table that one model can learn from, as arrays."""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.errors import InputError
from mmgenre.models import Encoded, Encoder, FamilyConfig, Movies
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table

# What a movie is known by, as columns of MOVIES and as a person calls them; a title alone says too little.
_KINDS = {"plot": "plot", "image": "poster"}


@dataclass(frozen=True)
class Rows:
    """Movies of one split, in the order of their ids, and their labels, shape (N, 9)."""

    ids: pa.ChunkedArray
    movies: Movies
    labels: np.ndarray


@dataclass(frozen=True)
class Split:
    """Encoded movies and their labels, shape (N, 9)."""

    movies: Encoded
    labels: np.ndarray


def is_known(model: FamilyConfig) -> pc.Expression:
    """Which rows of a MOVIES table have what a model reads."""
    return functools.reduce(operator.or_, [pc.field(name).is_valid() for name in _kinds(model)])


def read_split(table: Table, split: str | Sequence[str], model: FamilyConfig, *, images: bool = True) -> Rows:
    """The movies of a split that a model can read, in the order of their ids whatever the files' order.

    Args:
        table: of the schema MOVIES.
        split: train, val or test, or several of them.
        model: says what it reads.
        images: false where they are not needed here, for they take much room.

    Raises:
        InputError: there are none.
    """
    columns = [name for name in model.columns if images or name != "image"]
    names = [split] if isinstance(split, str) else list(split)
    rows = table.read(["imdb_id", *columns, "labels"], pc.field("split").isin(names) & is_known(model))
    if rows.num_rows == 0:
        wanted = " or a ".join(_KINDS[name] for name in _kinds(model))
        raise InputError(
            f"{table.directory}: no {' or '.join(names)} rows with a {wanted}; train needs train and val rows"
        )
    rows = rows.sort_by("imdb_id")
    return Rows(rows["imdb_id"], Movies.of(rows), from_per_genre(rows["labels"]))


def encode(encoder: Encoder, rows: Rows) -> Split:
    """The movies as arrays, without those that turn out to be unreadable.

    Raises:
        InputError: all of them are.
    """
    return readable(encoder.encode(rows.movies), rows.labels)


def readable(movies: Encoded, labels: np.ndarray) -> Split:
    """The movies without those that a model can read nothing of.

    Raises:
        InputError: none is left.
    """
    kept = np.flatnonzero(movies.readable)
    if not len(kept):
        raise InputError(
            f"dataset: none of the {len(labels):,} posters of a split can be decoded; make the POSTERS table again"
        )
    return Split(movies.take(kept), labels[kept])


def _kinds(model: FamilyConfig) -> list[str]:
    return [name for name in model.columns if name in _KINDS]
