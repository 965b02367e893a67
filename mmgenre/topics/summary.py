"""What there is to tell of topics: their movies, words and genres, as figures and as a file for other programs."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.labels import GENRES, encode
from mmgenre.tables import storage
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table
from mmgenre.topics.model import NO_TOPIC
from mmgenre.topics.rows import NO_TOPIC_NAME

# Columns that say genres: 0 or 1 for each, or those that a movie has.
_GENRES = ("labels", "genres")


@dataclass(frozen=True)
class GenreShares:
    """How topics and genres go together.

    Args:
        shares: shape (K, 9), of each topic's movies with known genres those that have the genre; NaN where none are
            known.
        overall: shape (9,), the same of all movies with a plot, with a topic or without.
    """

    shares: np.ndarray
    overall: np.ndarray

    @property
    def lift(self) -> np.ndarray:
        """Shape (K, 9): how many times as often as overall; NaN where no movie has the genre."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.overall > 0, self.shares / self.overall, np.nan)


@dataclass(frozen=True)
class Topic:
    """One topic.

    Args:
        number: 0 is the largest among the movies that topics were found in.
        name: its first words.
        words: the best first.
        movies: how many there are of it.
        share: of all movies with a plot.
        coherence: of its words.
        examples: titles of those of its movies that are most like their mean.
    """

    number: int
    name: str
    words: tuple[str, ...]
    movies: int
    share: float
    coherence: float
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """All topics of some movies.

    Args:
        topics: in the order of their numbers.
        genres: rows in the order of topics; None where no genres are known.
        without: movies with a plot that are of no topic.
        plots: movies with a plot.
        fitted_on: movies that topics were found in.
        diversity: of the topics' words.
    """

    topics: list[Topic]
    genres: GenreShares | None
    without: int
    plots: int
    fitted_on: int
    diversity: float

    @property
    def coherence(self) -> float:
        """The mean of the topics'."""
        return float(np.mean([topic.coherence for topic in self.topics]))

    @property
    def share_without(self) -> float:
        """Of the movies with a plot, those of no topic."""
        return self.without / self.plots


def genre_shares(topics: np.ndarray, labels: np.ndarray, num_topics: int) -> GenreShares | None:
    """How often the movies of each topic have each genre; None where no movie's genres are known.

    Args:
        topics: shape (N,), NO_TOPIC or a number below num_topics.
        labels: shape (N, 9), 0 or 1; NaN where a movie's genres are not known.
        num_topics: K.
    """
    known = ~np.isnan(labels).any(axis=1)
    if not known.any():
        return None
    topics, labels = topics[known], labels[known].astype(np.float64)
    has_topic = topics != NO_TOPIC
    sizes = np.bincount(topics[has_topic], minlength=num_topics)
    counts = np.zeros((num_topics, len(GENRES)))
    np.add.at(counts, topics[has_topic], labels[has_topic])
    with np.errstate(invalid="ignore"):
        return GenreShares(counts / sizes[:, None], labels.mean(axis=0))


def labels_of(ids: Sequence[str], directory: str | None) -> np.ndarray:
    """The genres of movies, shape (N, 9), NaN where they are not known.

    A catalogue does not tell movies of none of the nine from those whose genres are not known: neither are known here.

    Args:
        ids: of N movies.
        directory: of a table with the column `labels` or `genres`; None: nothing is known.

    Raises:
        InputError: the table has neither.
    """
    if directory is None:
        return np.full((len(ids), len(GENRES)), np.nan, np.float32)
    table = Table(directory)
    name = _genre_column(table)
    rows = table.read(["imdb_id", name])
    places = pc.index_in(pa.array(ids, pa.string()), value_set=rows["imdb_id"].combine_chunks())
    found = rows[name].take(places)
    if name == "labels":
        return from_per_genre(found)
    unknown = np.full(len(GENRES), np.nan, np.float32)
    nothing_known: tuple[Any, ...] = (None,) if "probabilities" in table.dataset.schema.names else (None, [])
    return np.stack([unknown if genres in nothing_known else encode(genres) for genres in found.to_pylist()])


def genre_source(movies: str, catalog: str | None, genres: str | None) -> str | None:
    """The table that says movies' genres: the one that is named for it, else the movies' own, else the catalogue.

    Raises:
        InputError: the one that is taken says none.
    """
    if genres is None and storage.kind(movies) != FileType.File and _genre_columns(Table(movies)):
        return movies
    found = genres or catalog
    if found is not None:
        _genre_column(Table(found))
    return found


def _genre_column(table: Table) -> str:
    """The column of a table that says genres, or InputError."""
    found = _genre_columns(table)
    if not found:
        raise InputError(f"{table.directory}: no genres; expected a MOVIES, CATALOG or PREDICTIONS folder")
    return found[0]


def _genre_columns(table: Table) -> list[str]:
    """All such columns, the first one preferred."""
    return [name for name in _GENRES if name in table.dataset.schema.names]


def to_csv(summary: Summary) -> str:
    """One line for each topic, the last for the movies without one; shares and lifts for each genre."""
    columns = [f"{what}_{genre}" for what in ("share", "lift") for genre in GENRES] if summary.genres else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["topic", "name", "movies", "share", "coherence", "words", *columns])
    for row, topic in enumerate(summary.topics):
        figures = [f"{topic.share:.4f}", f"{topic.coherence:.3f}"]
        line = [topic.number, topic.name, topic.movies, *figures, "|".join(topic.words)]
        if summary.genres:
            line += [_figure(value) for value in (*summary.genres.shares[row], *summary.genres.lift[row])]
        writer.writerow(line)
    rest = [NO_TOPIC, NO_TOPIC_NAME, summary.without, f"{summary.share_without:.4f}"]
    writer.writerow([*rest, *[""] * (2 + len(columns))])
    return file.getvalue()


def strongest(summary: Summary, row: int, most: int = 3) -> list[tuple[str, float, float]]:
    """The genres that a topic has most above all movies, each with its share and lift; none below one and a half."""
    if summary.genres is None:
        return []
    shares, lift = summary.genres.shares[row], summary.genres.lift[row]
    order = np.argsort(-np.nan_to_num(lift), kind="stable")[:most]
    return [(GENRES[column], float(shares[column]), float(lift[column])) for column in order if lift[column] >= 1.5]


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
