"""Schemas of the tables between stages, and the statuses of their rows."""

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
        # Minutes; int32 because IMDb lists works of more than 32,767.
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
        # Digest of the image; placeholders keep it, though their image is dropped.
        pa.field("sha256", pa.string()),
        pa.field("detail", pa.string()),
        # Address of the image: it changes when the movie's poster does.
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
        # Digest of the model's input: an equal digest means an equal prediction.
        pa.field("input_digest", pa.int64()),
    ]
)
SPLITS = ("train", "val", "test")


class EnrichStatus(StrEnum):
    """Result of asking a provider for one title."""

    OK = "ok"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    UNREADABLE = "unreadable"


class PosterStatus(StrEnum):
    """Result of downloading a movie's poster."""

    OK = "ok"
    NO_POSTER = "no_poster"
    NOT_FOUND = "not_found"
    PLACEHOLDER = "placeholder"
    NOT_AN_IMAGE = "not_an_image"
    TOO_LARGE = "too_large"
    FORBIDDEN = "forbidden"
    # The URL itself is allowed, but it redirects to a forbidden one, or its host has a private address.
    FORBIDDEN_TARGET = "forbidden_target"
    UNREACHABLE = "unreachable"


class PredictStatus(StrEnum):
    """The inputs a movie's prediction was made from, or why there is none."""

    TEXT_AND_POSTER = "text_and_poster"
    TEXT_ONLY = "text_only"
    POSTER_ONLY = "poster_only"
    NO_INPUT = "no_input"
    ERROR = "error"


# Values of the config field `split`.
SplitName = Literal["train", "val", "test", "all"]


def is_of_split(split: SplitName) -> pc.Expression:
    """Filter for the rows of a split of a MOVIES table."""
    return pc.scalar(True) if split == "all" else pc.field("split") == split


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Select, order and cast the columns of a table to match a schema.

    Of pyarrow's functions, only `cast` refuses nulls in non-null fields; `from_pylist` and `validate` accept them.

    Raises:
        pa.ArrowInvalid, KeyError: a column is missing, of the wrong type, or null where nulls are not allowed.
    """
    return table.select(schema.names).cast(schema)


def per_genre(values: np.ndarray, valid: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """Floats of shape (N, 9) as a column of labels or probabilities.

    Where `valid`, shape (N,), is false, the nine elements are null rather than the list, because pyarrow writes null
    lists of a fixed size but cannot read them (apache/arrow#35692). A 2-D numpy column would not do either: Ray writes
    it as a type that only Ray can read.
    """
    mask = None if valid is None else np.repeat(~valid, len(GENRES))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel(), mask=mask), type=_PER_GENRE)


def from_per_genre(column: pa.ChunkedArray) -> np.ndarray:
    """A column of labels or probabilities as float32, shape (N, 9); null elements and null lists become NaN."""
    lists = column.combine_chunks()
    values = np.full((len(lists), len(GENRES)), np.nan, np.float32)
    # `flatten` skips null lists, which a join produces for movies without a match.
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    values[lists.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(-1, len(GENRES))
    return values
