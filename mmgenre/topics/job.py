"""Plots → topics: what movies are about, found by BERTopic among the embeddings of a trained text model.

Every movie gets one row of TOPICS; below the table stand the topics as a page, pictures, Markdown and CSV.
"""

import time
from typing import Any

import numpy as np
from pyarrow.fs import FileType
from pydantic import Field

from mmgenre.models import checkpoint
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import SplitName
from mmgenre.tables.table import PARTS, Table, TableWriter
from mmgenre.tables.user_files import read_movies
from mmgenre.tagging.input import Places, TagInput
from mmgenre.topics.embeddings import Embedding, Plots, PlotWork, embed, embedding_recipe, text_family
from mmgenre.topics.model import NO_TOPIC, TopicModel, TopicModelConfig, require_enough, require_packages
from mmgenre.topics.page import MARKDOWN, PAGE, pictures, to_markdown, to_page
from mmgenre.topics.rows import TOPICS, TopicRows, assigned, chosen, drawn
from mmgenre.topics.summary import Summary, Topic, genre_shares, genre_source, labels_of, to_csv
from mmgenre.topics.words import coherence, diversity, names_of

EMBEDDINGS = "_embeddings"
# Readers of tables pass over names that begin so.
FOR_PEOPLE, CSV = "_page", "topics.csv"
_SETTINGS_OF_PLACES = {"checkpoint", "movies", "catalog", "enriched", "genres", "output", "overwrite", "embeddings"}
_ROWS_PER_PART = 100_000


class TopicsConfig(TopicModelConfig):
    """Find out what movies are about."""

    checkpoint: str = Field(
        description="folder of a transformer, a bilstm, or a fusion with one, made by jobs/train.py"
    )
    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot"
    )
    split: SplitName = Field("all", description="of a MOVIES table, the movies that are looked at")
    catalog: str | None = Field(None, description="CATALOG folder: titles and genres, for movies that have none")
    enriched: str | None = Field(None, description="ENRICHED folder with the plots, for movies that have none")
    genres: str | None = Field(
        None, description="MOVIES, CATALOG or PREDICTIONS folder that says the genres; null: the movies', else catalog"
    )
    sample: int = Field(
        50_000, ge=10, description="movies that topics are found in; of more, the others are assigned afterwards"
    )
    examples: int = Field(3, ge=0, le=20, description="titles that the page shows of each topic")
    shown: int = Field(40, ge=1, description="topics in the pictures, the largest")
    output: str = Field(description="folder of the TOPICS table, the page and the pictures")
    overwrite: bool = Field(False, description="replace what another model or configuration left in output")
    embeddings: str | None = Field(
        None, description="folder where embeddings are kept for other runs; null: OUTPUT/_embeddings"
    )
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    precision: Precision = Field("auto", description="of the embeddings; auto: bf16 where it is computed in, else fp32")


def topics(config: TopicsConfig) -> Manifest:
    """One TOPICS row for each movie; in _page topics.html, topics.csv, topics.md and the heat-map as PNG and SVG.

    Raises:
        InputError: no checkpoint, one without embeddings of plots, movies that cannot be read, too few plots, or an
            output made otherwise; or a package is not installed.
    """
    require_packages()
    card = checkpoint.read_card(config.checkpoint)
    source = _source(config, text_family(card, config.checkpoint).columns)
    genres = genre_source(config.movies, config.catalog, config.genres)
    embedded = embedding_recipe(card, source, config.precision)
    recipe = _recipe(config, embedded, genres)
    writer = TableWriter(config.output, TOPICS, recipe, owned=(PARTS, FOR_PEOPLE))
    found = writer.begin(overwrite=config.overwrite)
    if found is not None:
        return found
    clock = _Clock()
    work = PlotWork(config.embeddings or storage.join(config.output, EMBEDDINGS), embedded)
    work.stage_plots(source)
    ids = chosen(work, config.sample, config.seed)
    require_enough(len(ids), config)
    clock.lap("stage")
    embed(work, Embedding(storage.absolute(config.checkpoint), config.accelerator, config.precision))
    clock.lap("embed")
    fitted = drawn(work, ids)
    model = TopicModel(fitted, config)
    clock.lap("fit")
    rows = assigned(work, fitted, model, reduce_outliers=config.reduce_outliers)
    clock.lap("assign")
    summary = _summary(rows, fitted, model, genres, config)
    table = rows.table([topic.name for topic in summary.topics])
    for start in range(0, len(table), _ROWS_PER_PART):
        writer.write(table.slice(start, _ROWS_PER_PART))
    _write_files(config, summary)
    clock.lap("write")
    notes = _notes(summary) | {"seconds": clock.seconds}
    return writer.finish(rows_in=len(rows.ids), expected_rows=work.staged.manifest.rows, notes=notes)


def describe(manifest: Manifest, output: str) -> str:
    """What a person wants to know of a run, and where there is more."""
    notes, page = manifest.notes, storage.join(output, FOR_PEOPLE, PAGE)
    found = f"{notes['topics']} topics in {notes['fitted_on']:,} plots, {notes['share_without_topic']:.0%} without one"
    return f"{found}; coherence {notes['coherence']:.3f}, diversity {notes['diversity']:.3f}; see {page}\n{manifest}"


class _Clock:
    """Where the time went."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """The time since the last lap was for this."""
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 3), now


def _source(config: TopicsConfig, reads: tuple[str, ...]) -> TagInput:
    """The movies, with their titles where those are known."""
    places = Places(config.movies, config.split, config.catalog, config.enriched)
    if "title" in reads:
        return TagInput(places, reads)
    return TagInput(places, reads, keeps=("title",) if _has_titles(config) else ())


def _has_titles(config: TopicsConfig) -> bool:
    if config.catalog is not None:
        return True
    if storage.kind(config.movies) == FileType.File:
        return "title" in next(read_movies(config.movies, ["imdb_id"], ["title"])).schema.names
    return "title" in Table(config.movies).dataset.schema.names


def _recipe(config: TopicsConfig, embedded: Recipe, genres: str | None) -> Recipe:
    labels = {} if genres is None else {"genres": Table(genres).manifest.fingerprint}
    settings = config.to_settings(without=_SETTINGS_OF_PLACES | {"accelerator", "precision"})
    return Recipe(job="topics", settings=settings | embedded.settings, inputs=embedded.inputs | labels)


def _summary(rows: TopicRows, fitted: Plots, model: TopicModel, genres: str | None, config: TopicsConfig) -> Summary:
    """What there is to tell of the topics."""
    words = model.words()
    spelled = [tuple(model.terms.spelled[term] for term in own) for own in words]
    names, examples = names_of(spelled), _examples(fitted, model, config.examples)
    numbers = rows.topics[rows.has_plot]
    sizes = np.bincount(numbers[numbers != NO_TOPIC], minlength=model.num_topics).tolist()
    return Summary(
        topics=[
            Topic(
                number=number,
                name=names[number],
                words=spelled[number],
                movies=sizes[number],
                share=sizes[number] / len(numbers),
                coherence=coherence(words[number], model.terms),
                examples=examples[number],
            )
            for number in range(model.num_topics)
        ],
        genres=genre_shares(numbers, labels_of(rows.ids, genres)[rows.has_plot], model.num_topics),
        without=int(np.count_nonzero(numbers == NO_TOPIC)),
        plots=len(numbers),
        fitted_on=len(fitted.ids),
        diversity=diversity(words),
    )


def _notes(summary: Summary) -> dict[str, Any]:
    return {
        "topics": len(summary.topics),
        "fitted_on": summary.fitted_on,
        "share_without_topic": round(summary.share_without, 4),
        "coherence": round(summary.coherence, 4),
        "diversity": round(summary.diversity, 4),
    }


def _examples(fitted: Plots, model: TopicModel, most: int) -> list[tuple[str, ...]]:
    """Titles of the movies of each topic that are most like its mean."""
    likeness = model.likeness(fitted.values)
    found = []
    for topic in range(model.num_topics):
        mine = np.flatnonzero(model.assigned.topics == topic)
        order = mine[np.argsort(-likeness[mine, topic], kind="stable")]
        titles = [title for title in (fitted.titles[row] for row in order[: 4 * most]) if title]
        found.append(tuple(dict.fromkeys(titles))[:most])
    return found


def _write_files(config: TopicsConfig, summary: Summary) -> None:
    """What people look at."""
    drawn = pictures(summary, config.shown)
    files = drawn | {
        CSV: to_csv(summary).encode(),
        PAGE: to_page(summary, drawn, config.shown).encode(),
        MARKDOWN: to_markdown(summary, drawn).encode(),
    }
    for name, content in files.items():
        storage.write_bytes(storage.join(config.output, FOR_PEOPLE, name), content)
