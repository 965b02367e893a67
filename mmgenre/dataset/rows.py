"""The rows of a MOVIES table that a model can read, as arrays."""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.dataset.groups import group_numbers
from mmgenre.errors import InputError
from mmgenre.models import EncodedMovies, Encoder, FamilyConfig, Movies
from mmgenre.tables import storage
from mmgenre.tables.chunks import sorted_by_id
from mmgenre.tables.images import IMAGE_FILE, IMAGE_ROW, StoredImages, with_positions, without_images
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table

# The MOVIES columns a model may need, and their names in messages; a title alone is not enough.
_INPUTS = {"plot": "plot", "image": "poster"}
_IMAGES_PER_BATCH = 500


@dataclass(frozen=True)
class Rows:
    """Movies sorted by id, and their labels, shape (N, 9).

    Args:
        groups: shape (N,): movies with the same number have an equal plot or poster; None: unknown.
    """

    ids: pa.ChunkedArray
    movies: Movies
    labels: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Split:
    """Encoded movies, their labels, shape (N, 9), and their groups; see Rows."""

    movies: EncodedMovies
    labels: np.ndarray
    groups: np.ndarray | None = None


def is_known(model: FamilyConfig) -> pc.Expression:
    """Filter for the MOVIES rows with an input the model reads."""
    return functools.reduce(operator.or_, [pc.field(name).is_valid() for name in _inputs(model)])


def read_split(
    table: Table, split: str | Sequence[str], model: FamilyConfig, *, images: bool = True, grouped: bool = False
) -> Rows:
    """The movies of a split that a model can read, sorted by id. Their images stay in the files of the table.

    Args:
        table: of the schema MOVIES.
        split: one or several of train, val and test.
        model: its family decides which columns are read.
        images: false saves memory where images are not needed.
        grouped: find the movies of one split that share a plot or a poster.

    Raises:
        InputError: there is no such movie.
    """
    columns = [name for name in model.columns if images or name != "image"]
    names = [split] if isinstance(split, str) else list(split)
    row_filter = pc.field("split").isin(names) & is_known(model)
    if "image" in columns:
        rows = _with_image_positions(table, ["imdb_id", "split", *columns, "labels"], row_filter)
    else:
        rows = table.read(["imdb_id", *columns, "labels"], row_filter)
    if rows.num_rows == 0:
        inputs = " or a ".join(_INPUTS[name] for name in _inputs(model))
        raise InputError(
            f"{table.directory}: no {' or '.join(names)} rows with a {inputs}; training needs train and val rows"
        )
    rows = sorted_by_id(rows)
    movies = Movies.of(rows)
    if "image" in columns:
        files, places = (rows[name].fill_null(-1).to_numpy() for name in (IMAGE_FILE, IMAGE_ROW))
        movies = replace(movies, images=StoredImages(table.files, files, places))
    groups = group_numbers(table, names[0], rows["imdb_id"]) if grouped else None
    return Rows(rows["imdb_id"], movies, from_per_genre(rows["labels"]), groups)


def _with_image_positions(table: Table, columns: Sequence[str], row_filter: pc.Expression) -> pa.Table:
    """The rows of a MOVIES table that pass the filter, with the positions of their images in place of the images."""
    parts = []
    for number, file in enumerate(table.files):
        start = 0
        for batch in storage.parquet_batches(file, columns, _IMAGES_PER_BATCH):
            rows = with_positions(pa.Table.from_batches([batch]), number, start)
            parts.append(without_images(rows.filter(row_filter)))
            start += len(batch)
    return pa.concat_tables(parts)


def encode(encoder: Encoder, rows: Rows) -> Split:
    """The encoded movies, without unreadable ones.

    Raises:
        InputError: all movies are unreadable.
    """
    return readable(encoder.encode(rows.movies), rows)


def readable(movies: EncodedMovies, rows: Rows) -> Split:
    """Drop the movies in which the encoder found no readable input.

    Args:
        movies: the encoded movies.
        rows: the same movies.

    Raises:
        InputError: no movie is left.
    """
    known = np.flatnonzero(movies.readable)
    if not len(known):
        raise InputError(
            f"dataset: none of the {len(rows.labels):,} posters of a split can be decoded; run jobs/posters.py again"
        )
    groups = None if rows.groups is None else rows.groups[known]
    return Split(movies.take(known), rows.labels[known], groups)


def _inputs(model: FamilyConfig) -> list[str]:
    return [name for name in model.columns if name in _INPUTS]
