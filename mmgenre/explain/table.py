"""Explain a table: movies → EXPLANATIONS, one row per movie with the words and poster regions behind its genres.

The movies are staged in units; Ray Data actors explain the units that have no result yet; the results become the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmgenre.errors import InputError
from mmgenre.explain.attribution import Attribution, Explainer, require_captum
from mmgenre.explain.config import OWNED, ExplainTableConfig, model_settings
from mmgenre.explain.heat_maps import overlay
from mmgenre.models import checkpoint
from mmgenre.tables import storage
from mmgenre.tables.chunks import gather
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import PREDICTIONS, PredictStatus, from_per_genre, per_genre
from mmgenre.tables.table import TableWriter
from mmgenre.tagging.actors import InferenceSettings, TagUnits, compute_units, describe_error
from mmgenre.tagging.decisions import trained_thresholds
from mmgenre.tagging.input import MovieSources, TagInput
from mmgenre.tagging.units import WORK, EarlierPredictions, UnitReader, WorkFolder

_WORD = pa.struct(
    [("word", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("genre", pa.string()), ("score", pa.float32())]
)
_HEAT = pa.struct(
    [
        ("genre", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        # Row by row from the top.
        ("values", pa.list_(pa.float32())),
        ("overlay", pa.binary()),
    ]
)
EXPLANATIONS = pa.schema(
    [
        PREDICTIONS.field("imdb_id"),
        PREDICTIONS.field("status"),
        PREDICTIONS.field("probabilities"),
        # The explained genres, the most probable first.
        pa.field("genres", pa.list_(pa.string())),
        # Scores per word and genre: above 0 for the genre, below 0 against it. start and end are offsets into text.
        pa.field("text", pa.string()),
        pa.field("words", pa.list_(_WORD)),
        pa.field("heat", pa.list_(_HEAT)),
        pa.field("detail", pa.string()),
    ]
)
_WITHOUT_PROBABILITIES = pa.schema([field for field in EXPLANATIONS if field.name != "probabilities"])
# Small, because explaining one movie takes about a second.
_ROWS_PER_UNIT = 8
_BYTES_PER_PART = 64 * 2**20
# Not part of the recipe: settings of how the table is made, and paths whose content is in the recipe.
_EXECUTION = {"output", "overwrite", "actors", "cpus_per_actor", "accelerator"}
_PATHS = {"checkpoint", "movies", "catalog", "enriched", "posters"}


@dataclass(frozen=True)
class ExplainSettings(InferenceSettings):
    """Settings of the actors; `config` adds the genres, and whether to make overlays."""

    config: ExplainTableConfig


def explain_table(config: ExplainTableConfig) -> Manifest:
    """Write one EXPLANATIONS row per movie, with a status.

    Raises:
        InputError: captum is missing, the checkpoint is missing or not trained, the movies cannot be read, their ids
            are not distinct, or the output was made with other settings.
    """
    require_captum()
    card = checkpoint.read_card(config.checkpoint)
    trained_thresholds(card, config.checkpoint)
    sources = MovieSources(config.movies, config.split, config.catalog, config.enriched, config.posters)
    movies = TagInput(sources, card.model.columns)
    settings = {"model": model_settings(card)} | config.to_settings(without=_EXECUTION | _PATHS)
    recipe = Recipe(job="explain", settings=settings, inputs=movies.fingerprints)
    output = Output(config.output, recipe, OWNED, mode="resume", overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    work = WorkFolder(storage.join(config.output, WORK, "explain"))
    with output:
        writer = TableWriter(output, EXPLANATIONS)
        if not work.is_staged():
            work.stage(movies, EarlierPredictions([]), limit=config.limit, rows_per_unit=_ROWS_PER_UNIT)
        stats = compute_units(work, movies.image_files, _actor_settings(config), ExplainUnits)
        writer.clear()
        for rows in gather(work.results(), num_bytes=_BYTES_PER_PART):
            writer.write(rows)
        num_rows = work.staged.manifest.rows
        notes = {"checkpoint": config.checkpoint} | stats.notes()
        manifest = writer.finish(rows_in=num_rows, expected_rows=num_rows, notes=notes)
    storage.delete(storage.join(config.output, WORK))
    return manifest


class ExplainUnits(TagUnits):
    """Ray Data stage that explains units and writes the result of each to a file."""

    job = "explain"

    def __init__(self, work: WorkFolder, reader: UnitReader, settings: ExplainSettings):
        super().__init__(work, reader, settings)
        self._config, self._explainer = settings.config, Explainer.load(settings.checkpoint)

    def results(self, rows: pa.Table) -> pa.Table:
        """Explain the movies of a unit.

        A movie that fails gets the status `error`. If all of several movies fail, it is a bug, and the error is raised.
        """
        tagged = super().results(rows)
        probabilities = from_per_genre(tagged["probabilities"])
        errors: list[Exception] = []
        explained = []
        for prediction, movie, scores in zip(tagged.to_pylist(), rows.to_pylist(), probabilities, strict=True):
            row = {name: prediction[name] for name in ("imdb_id", "status", "detail")}
            try:
                if np.isfinite(scores).all():
                    row |= self._explain(movie, self._config.select_genres(scores))
            except InputError:
                raise
            except Exception as error:
                errors.append(error)
                row |= {"status": str(PredictStatus.ERROR), "detail": describe_error(error)}
            explained.append(row)
        if len(errors) == len(rows) > 1:
            raise errors[0]
        table = pa.Table.from_pylist(explained, _WITHOUT_PROBABILITIES)
        is_explained = np.array([row.get("genres") is not None for row in explained], bool)
        return table.append_column(EXPLANATIONS.field("probabilities"), per_genre(probabilities, is_explained))

    def _explain(self, movie: dict[str, Any], genres: Sequence[str]) -> dict[str, Any]:
        image = movie.get("image")
        attribution = self._explainer.explain(movie.get("title"), movie.get("plot"), image, genres)
        heat = _heat_rows(attribution, image if self._config.overlays else None)
        return {
            "genres": list(genres),
            "text": attribution.text,
            "words": _word_rows(attribution),
            "heat": heat or None,
        }


def _word_rows(attribution: Attribution) -> list[dict[str, Any]] | None:
    text = attribution.text
    if text is None:
        return None
    return [
        {"word": text[word.start : word.end], "start": word.start, "end": word.end, "genre": genre, "score": score}
        for word in attribution.words
        for genre, score in word.scores.items()
    ]


def _heat_rows(attribution: Attribution, poster: bytes | None) -> list[dict[str, Any]]:
    return [
        {
            "genre": genre,
            "height": heat.shape[0],
            "width": heat.shape[1],
            "values": heat.ravel().tolist(),
            "overlay": None if poster is None else overlay(poster, heat),
        }
        for genre, heat in attribution.heat.items()
    ]


def _actor_settings(config: ExplainTableConfig) -> ExplainSettings:
    return ExplainSettings(
        checkpoint=storage.absolute(config.checkpoint),
        actors=config.actors,
        cpus_per_actor=config.cpus_per_actor,
        accelerator=config.accelerator,
        precision=config.precision,
        keeps=(),
        config=config,
    )
