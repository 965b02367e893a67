"""Plots → TOPICS: one row per movie with its topic, found by BERTopic in the embeddings of a trained text model.

OUTPUT/_page holds the topics as an HTML page, heat-maps, Markdown and CSV.
"""

import time
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileType
from pydantic import Field

from mmgenre.config import Requirements
from mmgenre.models import checkpoint
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import PARTS, Output
from mmgenre.tables.schema import SplitName
from mmgenre.tables.table import Table, TableWriter
from mmgenre.tables.user_files import UserFile
from mmgenre.tagging.actors import InferenceSettings, compute_units
from mmgenre.tagging.input import MovieSources
from mmgenre.topics.embeddings import EmbedPlots, PlotInput, embedding_recipe, stage_plots, text_family
from mmgenre.topics.model import PACKAGES, TopicModel, TopicModelConfig, require_enough, require_packages
from mmgenre.topics.page import MARKDOWN, PAGE, heat_maps, to_markdown, to_page
from mmgenre.topics.rows import TOPICS, assign_topics, read_sample, sample_ids, with_names
from mmgenre.topics.summary import Summary, find_genre_table, summarize, to_csv

EMBEDDINGS = "_embeddings"
# Readers of tables skip names that begin with an underscore.
PAGE_FOLDER, CSV = "_page", "topics.csv"
# Settings of paths, whose contents are in the recipe, and of hardware.
_NOT_IN_RECIPE = {"checkpoint", "movies", "catalog", "enriched", "genres", "output", "overwrite", "embeddings"}
_NOT_IN_RECIPE |= {"accelerator", "precision"}
_ROWS_PER_PART = 100_000


class TopicsConfig(TopicModelConfig):
    """Find the topics of movies."""

    checkpoint: str = Field(
        description="checkpoint folder of a transformer, a bilstm, or a fusion with one, from jobs/train.py"
    )
    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot"
    )
    split: SplitName = Field("all", description="split of a MOVIES table to use")
    catalog: str | None = Field(None, description="CATALOG folder, for titles and genres that are missing in `movies`")
    enriched: str | None = Field(None, description="ENRICHED folder, for plots that are missing in `movies`")
    genres: str | None = Field(
        None, description="MOVIES, CATALOG or PREDICTIONS folder with the genres; null: `movies`, else `catalog`"
    )
    sample: int = Field(
        50_000, ge=10, description="movies to fit the topics on; the other movies are assigned to these topics"
    )
    examples: int = Field(3, ge=0, le=20, description="titles per topic on the page")
    shown: int = Field(40, ge=1, description="topics in the heat-map, largest first")
    output: str = Field(description="folder for the TOPICS table and the page")
    overwrite: bool = Field(False, description="replace an output of another model or configuration")
    embeddings: str | None = Field(
        None, description="cache of embeddings that several runs can share; null: OUTPUT/_embeddings"
    )
    accelerator: Accelerator = Field("auto", description="auto: GPUs if a node has one now; gpu: wait for them")
    precision: Precision = Field("auto", description="of the embeddings; auto: bf16 if the hardware supports it")

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        needs = Requirements(
            inputs=(self.checkpoint, self.movies, self.catalog, self.enriched, self.genres),
            outputs=(self.output, self.embeddings),
            cpus=1,
            gpus=self.accelerator == "gpu",
            packages=PACKAGES,
            mistakes=checkpoint.mistakes(self.checkpoint, text_family),
        )
        return (needs,)


def topics(config: TopicsConfig) -> Manifest:
    """Write one TOPICS row per movie, and the page.

    Raises:
        InputError: no usable checkpoint, unreadable movies, too few plots, an output of another configuration, or a
            missing package.
    """
    require_packages()
    card = checkpoint.read_card(config.checkpoint)
    source = _source(config, text_family(card, config.checkpoint).columns)
    genre_table = find_genre_table(config.movies, config.catalog, config.genres)
    embedded = embedding_recipe(card, source, config.precision)
    recipe = _recipe(config, embedded, genre_table)
    output = Output(config.output, recipe, (PARTS, PAGE_FOLDER), overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    timer = _StepTimer()
    with output:
        work = stage_plots(config.embeddings or storage.join(config.output, EMBEDDINGS), source, embedded)
        ids = sample_ids(work, config.sample, config.seed)
        require_enough(len(ids), config)
        timer.end("stage")
        compute_units(work, [], _inference_settings(config), EmbedPlots)
        timer.end("embed")
        sample = read_sample(work, ids)
        model = TopicModel(sample.plots, sample.embeddings, config)
        timer.end("fit")
        rows = assign_topics(work, sample, model, reduce_outliers=config.reduce_outliers)
        timer.end("assign")
        summary = summarize(rows, sample, model, genre_table, config.examples)
        writer = TableWriter(output, TOPICS)
        _write_rows(writer, with_names(rows, [topic.name for topic in summary.topics]))
        _write_page(output, summary, config.shown)
        timer.end("write")
        notes = _figures(summary) | {"seconds": timer.seconds}
        return writer.finish(rows_in=len(rows), expected_rows=work.staged.manifest.rows, notes=notes)


def describe(manifest: Manifest, output: str) -> str:
    """The main figures of a run, and the location of the page."""
    notes, page = manifest.notes, storage.join(output, PAGE_FOLDER, PAGE)
    return (
        f"{notes['topics']} topics in {notes['fitted_on']:,} plots, {notes['share_without_topic']:.0%} without a "
        f"topic; coherence {notes['coherence']:.3f}, diversity {notes['diversity']:.3f}; see {page}\n{manifest}"
    )


class _StepTimer:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def end(self, step: str) -> None:
        """Record a step that began when the last one ended."""
        now = time.monotonic()
        self.seconds[step], self._started = round(now - self._started, 3), now


def _source(config: TopicsConfig, columns: tuple[str, ...]) -> PlotInput:
    """The movies, with their titles if known."""
    sources = MovieSources(config.movies, config.split, config.catalog, config.enriched)
    return PlotInput(sources, columns, keeps=("title",) if "title" not in columns and _has_titles(config) else ())


def _has_titles(config: TopicsConfig) -> bool:
    if config.catalog is not None:
        return True
    if storage.kind(config.movies) == FileType.File:
        return "title" in UserFile(config.movies, ["imdb_id"], ["title"]).columns
    return "title" in Table(config.movies).dataset.schema.names


def _recipe(config: TopicsConfig, embedded: Recipe, genre_table: str | None) -> Recipe:
    inputs = {} if genre_table is None else {"genres": Table(genre_table).manifest.fingerprint}
    settings = config.to_settings(without=_NOT_IN_RECIPE) | embedded.settings
    return Recipe(job="topics", settings=settings, inputs=embedded.inputs | inputs)


def _inference_settings(config: TopicsConfig) -> InferenceSettings:
    return InferenceSettings(
        checkpoint=storage.absolute(config.checkpoint),
        actors=None,
        cpus_per_actor=1,
        accelerator=config.accelerator,
        precision=config.precision,
        keeps=(),
    )


def _figures(summary: Summary) -> dict[str, Any]:
    return {
        "topics": len(summary.topics),
        "fitted_on": summary.num_fitted,
        "share_without_topic": round(summary.outlier_share, 4),
        "coherence": round(summary.coherence, 4),
        "diversity": round(summary.diversity, 4),
    }


def _write_rows(writer: TableWriter, rows: pa.Table) -> None:
    for start in range(0, len(rows), _ROWS_PER_PART):
        writer.write(rows.slice(start, _ROWS_PER_PART))


def _write_page(output: Output, summary: Summary, num_drawn: int) -> None:
    images = heat_maps(summary, num_drawn)
    files = images | {
        CSV: to_csv(summary).encode(),
        PAGE: to_page(summary, images, num_drawn).encode(),
        MARKDOWN: to_markdown(summary, has_heat_map=bool(images)).encode(),
    }
    for name, content in files.items():
        output.write(f"{PAGE_FOLDER}/{name}", content)
