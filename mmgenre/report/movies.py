"""Rows of a MOVIES table for a report: figures of all movies, and all there is of the few that are shown."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from mmgenre.errors import one_line
from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table

_WORD = r"\S+"
# Characters, the blank included, on average over an excerpt.
_LONGEST_WORD = 12
_MAX_PIXELS = 50_000_000
_QUALITY = 75


@dataclass(frozen=True)
class MovieRows:
    """What is known of all N movies of a table without holding plots and posters, ordered by id.

    Args:
        ids: of the movies.
        splits: of the movies.
        labels: shape (N, 9).
        words: shape (N,): in the plot; 0 without one.
        has_plot: shape (N,), bool.
        num_posters: movies with a poster.
    """

    ids: pa.ChunkedArray
    splits: pa.ChunkedArray
    labels: np.ndarray
    words: np.ndarray
    has_plot: np.ndarray
    num_posters: int

    @classmethod
    def of(cls, movies: Table) -> "MovieRows":
        """Those of a MOVIES table."""
        columns = {name: pc.field(name) for name in ("imdb_id", "split", "labels")}
        plot = pc.field("plot")
        columns |= {"words": pc.count_substring_regex(plot, pattern=_WORD), "has_plot": plot.is_valid()}
        rows = movies.dataset.to_table(columns=columns).sort_by("imdb_id")
        return cls(
            ids=rows["imdb_id"],
            splits=rows["split"],
            labels=from_per_genre(rows["labels"]),
            words=rows["words"].fill_null(0).to_numpy(),
            has_plot=rows["has_plot"].to_numpy(zero_copy_only=False),
            num_posters=num_valid(movies, "image"),
        )

    def sample(self, number: int, seed: int) -> list[str]:
        """Ids of so many movies, chosen by the seed alone."""
        chosen = np.random.default_rng(seed).permutation(len(self.ids))[:number]
        return self.ids.take(pa.array(np.sort(chosen))).to_pylist()


@dataclass(frozen=True)
class Details:
    """What is shown of a movie beside its genres."""

    title: str
    plot: str | None
    image: bytes | None


def details(movies: Table, ids: Iterable[str]) -> dict[str, Details]:
    """Of a few movies, by id, reading only the row groups that they are in."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    found: dict[str, Details] = {}
    if not len(wanted):
        return found
    is_wanted = pc.field("imdb_id").isin(wanted)
    for fragment in movies.dataset.get_fragments():
        for group in fragment.split_by_row_group():
            if not pc.any(pc.is_in(group.to_table(columns=["imdb_id"])["imdb_id"], wanted)).as_py():
                continue
            rows = group.to_table(columns=["imdb_id", "title", "plot", "image"], filter=is_wanted)
            found |= {row.pop("imdb_id"): Details(**row) for row in rows.to_pylist()}
    return found


def num_valid(table: Table, column: str) -> int:
    """Rows in which a column is not null, as the files' own account of themselves says: none of it is read."""
    nulls = 0
    for fragment in table.dataset.get_fragments():
        metadata = fragment.metadata
        place = metadata.schema.names.index(column)
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).num_rows:
                nulls += metadata.row_group(group).column(place).statistics.null_count
    return table.dataset.count_rows() - nulls


def excerpt(plot: str | None, words: int) -> str | None:
    """The beginning of a plot on one line; None where there is none, or nothing of it is to be shown."""
    if plot is None or not words:
        return None
    whole = one_line(plot)
    # Some languages have no blanks between words.
    found = " ".join(whole.split(" ")[:words])[: words * _LONGEST_WORD]
    return found if found == whole else f"{found} …"


def thumbnail(image: bytes | None, max_side: int) -> bytes | None:
    """A poster small enough for a page; None where there is none, it cannot be decoded, or none are to be shown."""
    if image is None or not max_side:
        return None
    try:
        small = shrink(image, max_side, _MAX_PIXELS)
    except (NotAnImage, TooManyPixels):
        return None
    content = io.BytesIO()
    with Image.open(io.BytesIO(small.jpeg)) as picture:
        picture.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
