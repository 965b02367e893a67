"""Movies → PREDICTIONS: every movie of a table or a file once, with the genres that a trained model gives it.

The input is staged in units; actors compute those that have no result; the results become the table. What the model has
said of a movie before holds while the movie is as it was, so a newer catalogue costs what is new in it, and other
thresholds cost no model at all.
"""

import hashlib
import json
import time
from typing import Literal

import pyarrow as pa
from pydantic import Field

from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe, read_manifest
from mmgenre.tables.schema import PREDICTIONS, SplitName
from mmgenre.tables.table import TableWriter
from mmgenre.tagging.actors import Computing, predict
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations, trained_thresholds
from mmgenre.tagging.input import Places, TagInput
from mmgenre.tagging.output import OWNED, Export, TagWriter
from mmgenre.tagging.units import WORK, Earlier, Work, earlier_files

# Settings of the last step, and of which movies it is for.
_OF_THE_LAST_STEP = {*DecisionConfig.model_fields, "columns", "export", "split"}


class TagConfig(DecisionConfig):
    """Tag every movie of a table or a file."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot"
    )
    split: SplitName = Field("all", description="of a MOVIES table, the movies to tag")
    catalog: str | None = Field(None, description="CATALOG folder: titles for models that read them, and columns")
    enriched: str | None = Field(None, description="ENRICHED folder with the plots, for movies that have none")
    posters: str | None = Field(None, description="POSTERS folder with the images, for models that read them")
    without: Literal["plot", "poster"] | None = Field(
        None, description="what is not read though it may be known: movies are tagged by the other alone"
    )
    columns: tuple[str, ...] = Field((), description="of the movies or of the catalogue, to stand beside the genres")
    export: tuple[Export, ...] = Field((), description="also OUTPUT/_tags.csv, or _tags.tsv as IMDb writes it")
    output: str = Field(description="folder of the PREDICTIONS table; the same command goes on where it was")
    overwrite: bool = Field(False, description="replace what another model or configuration left in output")
    actors: int | None = Field(None, ge=1, description="processes with a model each; null: one for each CPU or GPU")
    cpus_per_actor: int = Field(1, ge=1, description="and threads; more where memory holds few models")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    precision: Precision = Field("auto", description="auto: bf16 where it is measured to be faster, else fp32")


def tag(config: TagConfig) -> Manifest:
    """One PREDICTIONS row for each movie, with a status.

    Raises:
        InputError: no checkpoint or one that is not trained, movies that cannot be read, ids that are not distinct,
            or an output of another model.
    """
    card = checkpoint.read_card(config.checkpoint)
    thresholds = trained_thresholds(card, config.checkpoint)
    places = Places(config.movies, config.split, config.catalog, config.enriched, config.posters)
    source = TagInput(places, _reads(card, config.without), config.columns)
    recipe = _recipe(config, card, source)
    writer = TableWriter(config.output, pa.schema([*PREDICTIONS, *source.kept]), recipe, owned=(*OWNED, WORK))
    found = writer.finished()
    if found is not None:
        return found
    began = time.monotonic()
    work = _staged(config, source, writer, recipe)
    staged = time.monotonic()
    account = predict(work, source.image_files, _computing(config, source))
    computed = time.monotonic()
    decisions = Decisions(calibrations(card, config.checkpoint), config)
    output = TagWriter(writer, decisions, source.kept, config.export)
    output.write(work.results())
    counts = work.staged.manifest
    notes = {
        "checkpoint": config.checkpoint,
        "thresholds": thresholds.model_dump(),
        "cutoffs": decisions.to_settings(),
        "carried_over": counts.rows_in - counts.rows,
        "coverage": output.coverage(),
    } | account.notes(stage=staged - began, write=time.monotonic() - computed)
    manifest = writer.finish(rows_in=counts.rows_in, expected_rows=counts.rows_in, notes=notes)
    storage.delete(storage.join(config.output, WORK))
    return manifest


def _staged(config: TagConfig, source: TagInput, writer: TableWriter, recipe: Recipe) -> Work:
    """The work, cut into units; a complete output stays complete until its next input is known to be good."""
    keeps = writer.keeps(overwrite=config.overwrite, keep="all")
    work, model = _work(config.output, recipe)
    if not keeps or read_manifest(config.output) is None:
        writer.start(keeps=keeps)
    if not work.is_staged():
        work.stage(source, Earlier(earlier_files(config.output, model, work)))
    writer.start(keeps=True)
    return work


def _computing(config: TagConfig, source: TagInput) -> Computing:
    return Computing(
        checkpoint=storage.absolute(config.checkpoint),
        actors=config.actors,
        cpus_per_actor=config.cpus_per_actor,
        accelerator=config.accelerator,
        precision=config.precision,
        keeps=tuple(field.name for field in source.kept),
    )


def _reads(card: Card, without: str | None) -> list[str]:
    """What is read of a movie."""
    hidden = {"plot": {"plot", "title"}, "poster": {"image"}, None: set()}[without]
    columns = [name for name in card.model.columns if name not in hidden]
    if not columns:
        raise InputError(f"without={without}: this model reads nothing else; leave it out")
    return columns


def _recipe(config: TagConfig, card: Card, source: TagInput) -> Recipe:
    model = {
        "weights": card.weights_sha256,
        "assets": card.assets,
        "thresholds": None if card.thresholds is None else card.thresholds.model_dump(mode="json"),
        "temperature": card.temperature,
        "alone": {status: one.model_dump(mode="json") for status, one in card.alone.items()},
        "settings": card.model.model_dump(mode="json"),
    }
    return Recipe(
        job="tag",
        settings={"model": model, "without": config.without, "precision": config.precision},
        inputs=source.fingerprints,
        finish=config.to_settings(without=set(TagConfig.model_fields) - _OF_THE_LAST_STEP),
    )


def _work(output: str, recipe: Recipe) -> tuple[Work, str]:
    """The folder of this run's work, and the mark of the model that begins its name."""
    staged = [recipe.inputs, recipe.finish["columns"], recipe.finish["split"]]
    model, inputs = (
        hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12] for said in (recipe.settings, staged)
    )
    return Work(output, f"{model}-{inputs}"), model
