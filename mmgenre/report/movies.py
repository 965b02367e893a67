"""What the report reads from the MOVIES table: a few columns of all movies, and all of the few movies it shows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.errors import one_line
from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.report.blocks import GenreOutcome, MovieCard
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table
from mmgenre.tables.words import count_words

# Average characters per word that an excerpt may take, including the space.
_MAX_WORD_LENGTH = 12
_MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class MovieColumns:
    """Columns of all N movies, sorted by id; plots and posters are not kept in memory.

    Args:
        ids: of the movies.
        splits: of the movies.
        labels: shape (N, 9).
        words: shape (N,): words in the plot; 0 without a plot.
        has_plot: shape (N,), bool.
        num_posters: number of movies with a poster.
    """

    ids: pa.ChunkedArray
    splits: pa.ChunkedArray
    labels: np.ndarray
    words: np.ndarray
    has_plot: np.ndarray
    num_posters: int

    @classmethod
    def read(cls, movies: Table) -> "MovieColumns":
        """Read them from a MOVIES table."""
        columns = {name: pc.field(name) for name in ("imdb_id", "split", "labels")}
        plot = pc.field("plot")
        columns |= {"words": count_words(plot), "has_plot": plot.is_valid()}
        rows = movies.dataset.to_table(columns=columns).sort_by("imdb_id")
        return cls(
            ids=rows["imdb_id"],
            splits=rows["split"],
            labels=from_per_genre(rows["labels"]),
            words=rows["words"].fill_null(0).to_numpy(),
            has_plot=rows["has_plot"].to_numpy(zero_copy_only=False),
            num_posters=count_valid(movies, "image"),
        )

    def sample(self, number: int, seed: int) -> dict[str, np.ndarray]:
        """Labels of randomly chosen movies, by id; the seed alone decides which."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.ids))[:number])
        return dict(zip(self.ids.take(pa.array(rows)).to_pylist(), self.labels[rows], strict=True))


class MovieCards:
    """Makes cards of a few movies.

    Args:
        movies: the MOVIES table.
        ids: movies that cards may be made of; only the row groups that hold them are read.
        plot_words: words shown of a plot; 0: none.
        poster_side: longest side of a poster in pixels; 0: no posters.
        max_posters: number of posters shown, those of the first ids.
    """

    def __init__(self, movies: Table, ids: Iterable[str], *, plot_words: int, poster_side: int, max_posters: int):
        distinct = list(dict.fromkeys(ids))
        self._rows = read_rows(movies, distinct)
        self._plot_words = plot_words
        self._posters: dict[str, bytes] = {}
        for imdb_id in distinct:
            if len(self._posters) == max_posters:
                break
            poster = thumbnail(self._rows[imdb_id]["image"], poster_side)
            if poster is not None:
                self._posters[imdb_id] = poster

    def card(self, imdb_id: str, genres: Iterable[str], outcomes: tuple[GenreOutcome, ...] = ()) -> MovieCard:
        """The card of one movie with its labels, and a model's decisions on it."""
        row = self._rows[imdb_id]
        return MovieCard(
            imdb_id=imdb_id,
            title=row["title"],
            plot=excerpt(row["plot"], self._plot_words),
            poster=self._posters.get(imdb_id),
            has_poster=row["image"] is not None,
            genres=tuple(genres),
            outcomes=outcomes,
        )


def read_rows(movies: Table, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read title, plot and image of a few movies, by id, from only the row groups that hold them."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for fragment in movies.dataset.get_fragments():
        for group in fragment.split_by_row_group():
            if pc.any(pc.is_in(group.to_table(columns=["imdb_id"])["imdb_id"], wanted)).as_py():
                columns = ["imdb_id", "title", "plot", "image"]
                rows = group.to_table(columns=columns, filter=pc.field("imdb_id").isin(wanted))
                found |= {row["imdb_id"]: row for row in rows.to_pylist()}
    return found


def count_valid(table: Table, column: str) -> int:
    """Count rows where a column is not null, from Parquet statistics alone, because images are slow to read."""
    nulls = 0
    for fragment in table.dataset.get_fragments():
        metadata = fragment.metadata
        index = metadata.schema.names.index(column)
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).num_rows:
                nulls += metadata.row_group(group).column(index).statistics.null_count
    return table.dataset.count_rows() - nulls


def excerpt(plot: str | None, words: int) -> str | None:
    """First words of a plot on one line; None without a plot, or with `words` 0."""
    if plot is None or not words:
        return None
    whole = one_line(plot)
    # The cut by characters is for languages that do not separate words by spaces.
    beginning = " ".join(whole.split(" ")[:words])[: words * _MAX_WORD_LENGTH]
    return beginning if beginning == whole else f"{beginning} …"


def thumbnail(image: bytes | None, max_side: int) -> bytes | None:
    """Shrink a poster to a small JPEG; None without a poster, for one that cannot be decoded, or with `max_side` 0."""
    if image is None or not max_side:
        return None
    try:
        return shrink(image, max_side, _MAX_PIXELS).jpeg
    except (NotAnImage, TooManyPixels):
        return None
