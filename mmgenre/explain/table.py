"""Movies → EXPLANATIONS: each movie of a table or a file once, with the words and regions that spoke for its genres.

The input is staged in units; Ray Data actors explain those that have no result; the results become the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmgenre.errors import InputError
from mmgenre.explain.attribution import Attribution, Explainer, overlay, require_captum
from mmgenre.explain.config import OWNED, ExplainTableConfig, model_settings
from mmgenre.models import checkpoint
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import PREDICTIONS, PredictStatus, from_per_genre, per_genre
from mmgenre.tables.table import TableWriter
from mmgenre.tagging.actors import Computing, Predict, predict, said_by
from mmgenre.tagging.decisions import trained_thresholds
from mmgenre.tagging.input import Places, TagInput
from mmgenre.tagging.units import WORK, Earlier, Reader, Work

_WORD = pa.struct(
    [("word", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("genre", pa.string()), ("score", pa.float32())]
)
_HEAT = pa.struct(
    [
        ("genre", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        # Row by row from the top, over the whole poster.
        ("values", pa.list_(pa.float32())),
        ("overlay", pa.binary()),
    ]
)
EXPLANATIONS = pa.schema(
    [
        PREDICTIONS.field("imdb_id"),
        PREDICTIONS.field("status"),
        PREDICTIONS.field("probabilities"),
        # Those that are explained, the most probable first.
        pa.field("genres", pa.list_(pa.string())),
        # Of each genre those that spoke for it (score above 0) or against it; start and end are characters of text.
        pa.field("text", pa.string()),
        pa.field("words", pa.list_(_WORD)),
        pa.field("heat", pa.list_(_HEAT)),
        pa.field("detail", pa.string()),
    ]
)
_WITHOUT_PROBABILITIES = pa.schema([field for field in EXPLANATIONS if field.name != "probabilities"])
# An explanation takes a second, so that even a few movies are work for several actors.
_ROWS_PER_UNIT = 8
_BYTES_PER_PART = 64 * 2**20
# Settings that change how the table is made, and not what is in it.
_HOW = {"output", "overwrite", "actors", "cpus_per_actor", "accelerator"}
_WHERE = {"checkpoint", "movies", "catalog", "enriched", "posters"}


@dataclass(frozen=True)
class Explaining(Computing):
    """How units are explained; config says which genres, and whether with overlays."""

    config: ExplainTableConfig


def explain_table(config: ExplainTableConfig) -> Manifest:
    """One EXPLANATIONS row for each movie, with a status.

    Raises:
        InputError: captum is missing, no checkpoint or one that is not trained, movies that cannot be read, ids that
            are not distinct, or an output made otherwise.
    """
    require_captum()
    card = checkpoint.read_card(config.checkpoint)
    trained_thresholds(card, config.checkpoint)
    places = Places(config.movies, config.split, config.catalog, config.enriched, config.posters)
    source = TagInput(places, card.model.columns)
    settings = {"model": model_settings(card)} | config.to_settings(without=_HOW | _WHERE)
    recipe = Recipe(job="explain", settings=settings, inputs=source.fingerprints)
    writer = TableWriter(config.output, EXPLANATIONS, recipe, OWNED)
    found = writer.begin(overwrite=config.overwrite, keep="unfinished")
    if found is not None:
        return found
    work = Work(config.output, "explain")
    if not work.is_staged():
        work.stage(source, Earlier([]), limit=config.limit, rows_per_unit=_ROWS_PER_UNIT)
    account = predict(work, source.image_files, _explaining(config), Explain)
    for rows in _gathered(work.results()):
        writer.write(rows)
    num_rows = work.staged.manifest.rows
    notes = {"checkpoint": config.checkpoint} | account.notes()
    manifest = writer.finish(rows_in=num_rows, expected_rows=num_rows, notes=notes)
    storage.delete(storage.join(config.output, WORK))
    return manifest


class Explain(Predict):
    """Ray Data stage: units in, an account of each out; their explanations are files by then."""

    job = "explain"

    def __init__(self, work: Work, reader: Reader, computing: Explaining):
        super().__init__(work, reader, computing)
        self._config, self._explainer = computing.config, Explainer.load(computing.checkpoint)

    def results(self, rows: pa.Table) -> pa.Table:
        """A movie that cannot be explained has the status `error`; where no movie of several can, it is a bug."""
        tagged = super().results(rows)
        chances = from_per_genre(tagged["probabilities"])
        failures: list[Exception] = []
        found = []
        for said, movie, probabilities in zip(tagged.to_pylist(), rows.to_pylist(), chances, strict=True):
            row = {name: said[name] for name in ("imdb_id", "status", "detail")}
            try:
                if np.isfinite(probabilities).all():
                    row |= self._explained(movie, self._config.chosen(probabilities))
            except InputError:
                raise
            except Exception as error:
                failures.append(error)
                row |= {"status": str(PredictStatus.ERROR), "detail": said_by(error)}
            found.append(row)
        if len(failures) == len(rows) > 1:
            raise failures[0]
        table = pa.Table.from_pylist(found, _WITHOUT_PROBABILITIES)
        is_known = np.array([row.get("genres") is not None for row in found], bool)
        return table.append_column(EXPLANATIONS.field("probabilities"), per_genre(chances, is_known))

    def _explained(self, movie: dict[str, Any], genres: Sequence[str]) -> dict[str, Any]:
        image = movie.get("image")
        found = self._explainer.explain(movie.get("title"), movie.get("plot"), image, genres)
        poster = image if self._config.overlays else None
        return {"genres": list(genres), "text": found.text, "words": _words(found), "heat": _heat(found, poster)}


def _words(found: Attribution) -> list[dict[str, Any]] | None:
    if found.text is None:
        return None
    return [
        {"word": found.text[one.start : one.end], "start": one.start, "end": one.end, "genre": genre, "score": score}
        for one in found.words
        for genre, score in one.scores.items()
    ]


def _heat(found: Attribution, poster: bytes | None) -> list[dict[str, Any]] | None:
    return [
        {
            "genre": genre,
            "height": heat.shape[0],
            "width": heat.shape[1],
            "values": heat.ravel().tolist(),
            "overlay": None if poster is None else overlay(poster, heat),
        }
        for genre, heat in found.heat.items()
    ] or None


def _explaining(config: ExplainTableConfig) -> Explaining:
    return Explaining(
        checkpoint=storage.absolute(config.checkpoint),
        actors=config.actors,
        cpus_per_actor=config.cpus_per_actor,
        accelerator=config.accelerator,
        precision=config.precision,
        keeps=(),
        config=config,
    )


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables that are large enough for a part."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(one.nbytes for one in waiting) >= _BYTES_PER_PART:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
