"""Movies → PREDICTIONS: one row for every movie of a table or file, with the genres that a trained model predicts.

The input is staged in units, actors compute the units that have no result, and the results become the table. A
prediction is reused as long as the movie's input does not change: a newer catalogue costs only what is new in it, and
other thresholds cost no inference at all.
"""

import dataclasses
import hashlib
import json
import time
from typing import Literal

import pyarrow as pa
from pydantic import Field

from mmgenre.config import Requirements
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe, read_manifest
from mmgenre.tables.output import Output
from mmgenre.tables.schema import PREDICTIONS, SplitName
from mmgenre.tables.table import Table, TableWriter
from mmgenre.tables.user_files import ENCODING, ON_BAD_ROWS, OnBadRows
from mmgenre.tagging.actors import InferenceSettings, compute_units
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations, trained_thresholds
from mmgenre.tagging.input import MovieSources, TagInput
from mmgenre.tagging.output import OWNED, Export, Exports, TagWriter
from mmgenre.tagging.units import WORK, EarlierPredictions, WorkFolder, earlier_files

# Settings that do not affect probabilities: the last step's, and the choice of movies.
_FINISH_SETTINGS = {*DecisionConfig.model_fields, "columns", "export", "safe_cells", "split"}


class TagConfig(DecisionConfig):
    """Tag every movie of a table or a file."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV, JSON lines, Excel or Parquet file with imdb_id "
        "and plot"
    )
    on_bad_rows: OnBadRows = Field("error", description=ON_BAD_ROWS)
    encoding: str | None = Field(None, description=ENCODING)
    split: SplitName = Field("all", description="split of a MOVIES table to tag")
    catalog: str | None = Field(None, description="CATALOG folder, for titles and `columns`")
    enriched: str | None = Field(None, description="ENRICHED folder, for plots and `columns`")
    posters: str | None = Field(None, description="POSTERS folder, for images")
    without: Literal["plot", "poster"] | None = Field(
        None, description="ignore plots (and titles) or posters, and tag by the other alone"
    )
    columns: tuple[str, ...] = Field((), description="columns of the movies or a side table to copy")
    export: tuple[Export, ...] = Field((), description="also write OUTPUT/_tags.csv, or _tags.tsv in IMDb's format")
    safe_cells: bool = Field(
        False, description="put ' before exported texts that spreadsheets take for formulas (= + - @ at their start)"
    )
    output: str = Field(description="folder of the PREDICTIONS table; run the same command again to resume")
    overwrite: bool = Field(False, description="replace an output of another model or configuration")
    actors: int | None = Field(None, ge=1, description="processes, each with a model; null: one per CPU or GPU")
    cpus_per_actor: int = Field(1, ge=1, description="CPUs and threads per process; more if memory is short")
    accelerator: Accelerator = Field("auto", description="auto: GPUs if a node has one now; gpu: wait for them")
    precision: Precision = Field("auto", description="auto: bf16 if it measures faster, else fp32")

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        actors = self.actors or 1
        needs = Requirements(
            inputs=(self.checkpoint, self.movies, self.catalog, self.enriched, self.posters),
            outputs=(self.output,),
            cpus=actors * self.cpus_per_actor,
            gpus=actors * (self.accelerator == "gpu"),
            mistakes=checkpoint.mistakes(self.checkpoint, trained_thresholds),
        )
        return (needs,)


def tag(config: TagConfig) -> Manifest:
    """Write one PREDICTIONS row, with a status, for each movie.

    Raises:
        InputError: no checkpoint or an untrained one, movies that cannot be read, duplicated ids, or an output of
            another model.
    """
    card = checkpoint.read_card(config.checkpoint)
    trained_thresholds(card, config.checkpoint)
    places = MovieSources(**{field.name: getattr(config, field.name) for field in dataclasses.fields(MovieSources)})
    source = TagInput(places, _reads(card, config.without), config.columns)
    exports = Exports(config.export, safe_cells=config.safe_cells)
    exports.require_text(source.kept)
    recipe = _recipe(config, card, source)
    output = Output(config.output, recipe, (*OWNED, WORK), mode="extend", overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    with output.reserved():
        if output.finished is None:
            _tag(config, card, output, source, exports)
    return Table(config.output).manifest


def _tag(config: TagConfig, card: Card, output: Output, source: TagInput, exports: Exports) -> None:
    """Compute the predictions and write the table."""
    start = time.monotonic()
    work, model = _work_folder(config.output, output.recipe)
    if output.keeps and read_manifest(config.output) is not None:
        # A complete table stays complete until its new input has been read without an error.
        _stage(config.output, model, work, source)
    with output:
        _stage(config.output, model, work, source)
        staged = time.monotonic()
        stats = compute_units(work, source.image_files, _inference_settings(config, source))
        computed = time.monotonic()
        decisions = Decisions(calibrations(card, config.checkpoint), config)
        table = TableWriter(output, pa.schema([*PREDICTIONS, *source.kept]))
        writer = TagWriter(table, decisions, source.kept, exports)
        writer.write(work.results())
        counts = work.staged.manifest
        notes = {
            "checkpoint": config.checkpoint,
            "thresholds": trained_thresholds(card, config.checkpoint).model_dump(),
            "cutoffs": decisions.to_settings(),
            "carried_over": counts.rows_in - counts.rows,
            "coverage": writer.coverage(),
        }
        notes |= counts.notes | stats.notes(stage=staged - start, write=time.monotonic() - computed)
        table.finish(rows_in=counts.rows_in, expected_rows=counts.rows_in, notes=notes)
    storage.delete(storage.join(config.output, WORK))


def _stage(output: str, model: str, work: WorkFolder, source: TagInput) -> None:
    """Stage the input, unless that has been done."""
    if not work.is_staged():
        work.stage(source, EarlierPredictions(earlier_files(output, model, work)))


def _inference_settings(config: TagConfig, source: TagInput) -> InferenceSettings:
    return InferenceSettings(
        checkpoint=storage.absolute(config.checkpoint),
        actors=config.actors,
        cpus_per_actor=config.cpus_per_actor,
        accelerator=config.accelerator,
        precision=config.precision,
        keeps=tuple(field.name for field in source.kept),
    )


def _reads(card: Card, without: str | None) -> list[str]:
    """The columns to read of a movie."""
    hidden = {"plot": {"plot", "title"}, "poster": {"image"}, None: set()}[without]
    columns = [name for name in card.model.columns if name not in hidden]
    if not columns:
        raise InputError(f"without={without}: this model reads nothing else; remove the setting")
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
        finish=config.to_settings(without=set(TagConfig.model_fields) - _FINISH_SETTINGS),
    )


def _work_folder(output: str, recipe: Recipe) -> tuple[WorkFolder, str]:
    """The work folder of this model and input, and the part of its name that identifies the model."""
    inputs = [recipe.inputs, recipe.finish["columns"], recipe.finish["split"]]
    model, source = (_digest(values) for values in (recipe.settings, inputs))
    return WorkFolder(storage.join(output, WORK, f"{model}-{source}")), model


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
