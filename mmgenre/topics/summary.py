"""Figures of topics: their movies, words and genres, and the CSV file of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.labels import GENRES, encode
from mmgenre.tables import storage
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table
from mmgenre.topics.model import NO_TOPIC, TopicModel
from mmgenre.topics.rows import NO_TOPIC_NAME, PlotSample, TopicStatus
from mmgenre.topics.words import coherence, diversity, topic_names

# 0 or 1 for each genre, or the list of a movie's genres; the first is preferred.
_GENRE_COLUMNS = ("labels", "genres")
_MIN_LIFT = 1.5


@dataclass(frozen=True)
class GenreShares:
    """Genres of the movies of each topic.

    Args:
        shares: shape (K, 9), share of the topic's movies with the genre, among movies with known genres; NaN if none.
        overall: shape (9,), the same share of all movies with a plot.
    """

    shares: np.ndarray
    overall: np.ndarray

    @property
    def lift(self) -> np.ndarray:
        """Share divided by overall share, shape (K, 9); NaN if no movie has the genre."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.overall > 0, self.shares / self.overall, np.nan)


@dataclass(frozen=True)
class Topic:
    """One topic.

    Args:
        number: 0 is the largest topic of the sample.
        name: its first words.
        words: best first.
        movies: number of movies.
        share: of the movies with a plot.
        coherence: of its words.
        examples: titles of its most typical movies.
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
        topics: by number.
        genres: one row per topic; None if no genres are known.
        num_outliers: movies with a plot and without a topic.
        num_plots: movies with a plot.
        num_fitted: movies in the sample.
        diversity: of the topics' words.
    """

    topics: list[Topic]
    genres: GenreShares | None
    num_outliers: int
    num_plots: int
    num_fitted: int
    diversity: float

    @property
    def coherence(self) -> float:
        """Mean over the topics."""
        return float(np.mean([topic.coherence for topic in self.topics]))

    @property
    def outlier_share(self) -> float:
        """Share of the movies with a plot that have no topic."""
        return self.num_outliers / self.num_plots

    def top_genres(self, row: int, num_genres: int = 3) -> list[tuple[str, float, float]]:
        """The genres with the highest lift in a topic, at least 1.5: name, share, lift."""
        if self.genres is None:
            return []
        shares, lift = self.genres.shares[row], self.genres.lift[row]
        columns = np.argsort(-np.nan_to_num(lift), kind="stable")[:num_genres]
        return [
            (GENRES[column], float(shares[column]), float(lift[column]))
            for column in columns
            if lift[column] >= _MIN_LIFT
        ]


def summarize(
    rows: pa.Table, sample: PlotSample, model: TopicModel, genre_table: str | None, num_examples: int
) -> Summary:
    """Figures of the topics.

    Args:
        rows: TOPICS rows of all movies, with or without names.
        sample: what the model was fitted on.
        model: the topics.
        genre_table: see `movie_labels`.
        num_examples: titles per topic.
    """
    rows = rows.filter(pc.field("status") != TopicStatus.NO_PLOT)
    topics = rows["topic"].to_numpy()
    sizes = np.bincount(topics[topics != NO_TOPIC], minlength=model.num_topics).tolist()
    words = model.words()
    spelled = [tuple(model.terms.spelling[term] for term in topic_words) for topic_words in words]
    names, examples = topic_names(spelled), _examples(sample, model, num_examples)
    return Summary(
        topics=[
            Topic(
                number=number,
                name=names[number],
                words=spelled[number],
                movies=size,
                share=size / len(topics),
                coherence=coherence(words[number], model.terms),
                examples=examples[number],
            )
            for number, size in enumerate(sizes)
        ],
        genres=genre_shares(topics, movie_labels(rows["imdb_id"].to_pylist(), genre_table), model.num_topics),
        num_outliers=int(np.count_nonzero(topics == NO_TOPIC)),
        num_plots=len(topics),
        num_fitted=len(sample.ids),
        diversity=diversity(words),
    )


def _examples(sample: PlotSample, model: TopicModel, num_titles: int) -> list[tuple[str, ...]]:
    """Titles of the movies that are most similar to the mean embedding of their topic."""
    similarity = model.similarity(sample.embeddings)
    examples = []
    for topic in range(model.num_topics):
        rows = np.flatnonzero(model.fitted.topics == topic)
        rows = rows[np.argsort(-similarity[rows, topic], kind="stable")]
        titles = [sample.titles[row] for row in rows[: 4 * num_titles]]
        examples.append(tuple(dict.fromkeys(title for title in titles if title))[:num_titles])
    return examples


def genre_shares(topics: np.ndarray, labels: np.ndarray, num_topics: int) -> GenreShares | None:
    """Share of each topic's movies with each genre; None if no genres are known.

    Args:
        topics: shape (N,), NO_TOPIC or a number below num_topics.
        labels: shape (N, 9), 0 or 1; NaN if the movie's genres are unknown.
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


def movie_labels(ids: Sequence[str], directory: str | None) -> np.ndarray:
    """Multi-hot genres of N movies, shape (N, 9); NaN if unknown.

    An empty list of genres means unknown in a CATALOG, and none of the nine in PREDICTIONS.

    Args:
        ids: of the movies.
        directory: of a table with the column `labels` or `genres`; None: all genres are unknown.

    Raises:
        InputError: the table has neither column.
    """
    unknown = np.full(len(GENRES), np.nan, np.float32)
    if directory is None:
        return np.tile(unknown, (len(ids), 1))
    table = Table(directory)
    name = _genre_column(table)
    rows = table.read(["imdb_id", name])
    indices = pc.index_in(pa.array(ids, pa.string()), value_set=rows["imdb_id"].combine_chunks())
    values = rows[name].take(indices)
    if name == "labels":
        return from_per_genre(values)
    is_predicted = "probabilities" in table.dataset.schema.names
    return np.stack(
        [
            unknown if genres is None or (not genres and not is_predicted) else encode(genres)
            for genres in values.to_pylist()
        ]
    )


def find_genre_table(movies: str, catalog: str | None, genres: str | None) -> str | None:
    """The table with the movies' genres: `genres` if given, else the movies' own table, else the catalogue.

    Raises:
        InputError: that table has no genres.
    """
    if genres is None and storage.kind(movies) != FileType.File and _has_genres(Table(movies)):
        return movies
    directory = genres or catalog
    if directory is not None:
        _genre_column(Table(directory))
    return directory


def _has_genres(table: Table) -> bool:
    return any(name in table.dataset.schema.names for name in _GENRE_COLUMNS)


def _genre_column(table: Table) -> str:
    if not _has_genres(table):
        raise InputError(f"{table.directory}: no genres; expected a MOVIES, CATALOG or PREDICTIONS folder")
    return next(name for name in _GENRE_COLUMNS if name in table.dataset.schema.names)


def to_csv(summary: Summary) -> str:
    """One line per topic, with the share and lift of each genre; the last line counts the movies without a topic."""
    columns = [f"{figure}_{genre}" for figure in ("share", "lift") for genre in GENRES] if summary.genres else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["topic", "name", "movies", "share", "coherence", "words", *columns])
    for row, topic in enumerate(summary.topics):
        figures = [f"{topic.share:.4f}", f"{topic.coherence:.3f}"]
        line = [topic.number, topic.name, topic.movies, *figures, "|".join(topic.words)]
        if summary.genres:
            values = (*summary.genres.shares[row], *summary.genres.lift[row])
            line += ["" if np.isnan(value) else f"{value:.4f}" for value in values]
        writer.writerow(line)
    outliers = [NO_TOPIC, NO_TOPIC_NAME, summary.num_outliers, f"{summary.outlier_share:.4f}"]
    writer.writerow([*outliers, *[""] * (2 + len(columns))])
    return file.getvalue()
