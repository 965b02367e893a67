"""The tables that cross the borders between stages, and the statuses their rows can have."""

from enum import StrEnum
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.labels import GENRES


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_PER_GENRE = pa.list_(pa.field("element", pa.float32()), len(GENRES))

CATALOG = pa.schema(
    [
        _required("imdb_id", pa.string()),
        _required("title", pa.string()),
        pa.field("year", pa.int16()),
        # int32: IMDb lists works of more than 32,767 minutes.
        pa.field("runtime", pa.int32()),
        _required("genres", pa.list_(pa.string())),
        pa.field("title_type", pa.string()),
    ]
)
ENRICHED = pa.schema(
    [
        _required("imdb_id", pa.string()),
        _required("provider", pa.string()),
        _required("status", pa.string()),
        pa.field("provider_id", pa.string()),
        pa.field("plot", pa.string()),
        pa.field("language", pa.string()),
        pa.field("poster_url", pa.string()),
        pa.field("detail", pa.string()),
        _required("fetched_at", pa.timestamp("s", tz="UTC")),
    ]
)
POSTERS = pa.schema(
    [
        _required("imdb_id", pa.string()),
        _required("status", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        # Of the image; rows of one placeholder share it, though they hold no image.
        pa.field("sha256", pa.string()),
        pa.field("detail", pa.string()),
        # Where it came from: when a movie's poster changes, so does its address.
        pa.field("poster_url", pa.string()),
    ]
)
MOVIES = pa.schema(
    [
        _required("imdb_id", pa.string()),
        _required("split", pa.string()),
        _required("title", pa.string()),
        pa.field("plot", pa.string()),
        pa.field("image", pa.binary()),
        _required("labels", _PER_GENRE),
    ]
)
PREDICTIONS = pa.schema(
    [
        _required("imdb_id", pa.string()),
        _required("status", pa.string()),
        pa.field("probabilities", _PER_GENRE),
        pa.field("genres", pa.list_(pa.string())),
        pa.field("detail", pa.string()),
        # Of what the model was given of the movie: while it stays the same, so does the prediction.
        pa.field("input_digest", pa.int64()),
    ]
)
SPLITS = ("train", "val", "test")


class EnrichStatus(StrEnum):
    """What became of asking a provider for one title."""

    OK = "ok"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"


class PosterStatus(StrEnum):
    """What became of a movie's poster."""

    OK = "ok"
    NO_POSTER = "no_poster"
    NOT_FOUND = "not_found"
    PLACEHOLDER = "placeholder"
    NOT_AN_IMAGE = "not_an_image"
    TOO_LARGE = "too_large"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"


class PredictStatus(StrEnum):
    """What a movie's prediction rests on."""

    TEXT_AND_POSTER = "text_and_poster"
    TEXT_ONLY = "text_only"
    POSTER_ONLY = "poster_only"
    NO_INPUT = "no_input"
    ERROR = "error"


# Movies of a MOVIES table that a job may be asked for.
SplitName = Literal["train", "val", "test", "all"]


def is_of_split(split: SplitName) -> pc.Expression:
    """Which rows of a MOVIES table are asked for."""
    return pc.scalar(True) if split == "all" else pc.field("split") == split


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns, in its order and types.

    Only `cast` refuses nulls in non-null fields; `from_pylist` and `validate` let them through.

    Raises:
        pa.ArrowInvalid, KeyError: a column is missing, of another kind, or null where it may not be.
    """
    return table.select(schema.names).cast(schema)


def per_genre(values: np.ndarray, valid: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """Shape (N, 9) floats as the column type of labels and probabilities.

    Where `valid`, shape (N,), is false, the nine elements are null and not the list: pyarrow writes null lists of a
    fixed size and then cannot read them (apache/arrow#35692). Built by hand because a 2-D numpy column written by Ray
    becomes a type that only Ray can read.
    """
    mask = None if valid is None else np.repeat(~valid, len(GENRES))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel(), mask=mask), type=_PER_GENRE)


def from_per_genre(column: pa.ChunkedArray) -> np.ndarray:
    """The column of labels or probabilities as float32, shape (N, 9); null elements and null lists become NaN."""
    lists = column.combine_chunks()
    values = np.full((len(lists), len(GENRES)), np.nan, np.float32)
    # `flatten` leaves out null lists, which a join makes of movies that it does not find.
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    values[lists.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, len(GENRES))
    return values
