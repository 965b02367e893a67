"""Movies → PREDICTIONS: every movie tagged by a trained model, one row for each, by Ray Data actors."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from pydantic import Field
from ray.data import ActorPoolStrategy

from mmgenre import checkpoint, cluster, storage
from mmgenre.checkpoint import Card
from mmgenre.cluster import Accelerator
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.genres import GENRES, decode
from mmgenre.growing import drop_doubled
from mmgenre.inference import Precision, predict_logits
from mmgenre.manifest import Manifest, Recipe
from mmgenre.progress import Progress
from mmgenre.schema import PREDICTIONS, PredictStatus, per_genre
from mmgenre.streams import read, write
from mmgenre.tables import Table, TableWriter
from mmgenre.tag_input import TagInput
from mmgenre.thresholds import Thresholds, decide, probabilities

_STAGED = "_staged"
# Settings that do not change what a row says.
_PLACES = ("checkpoint", "movies", "catalog", "output", "overwrite", "actors", "accelerator")
# Movies that an actor sorts by length together.
_WINDOW = 2048
_ROWS_PER_PART = 16_384


class TagConfig(Config):
    """Tag every movie of a table or a file."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    movies: str = Field(description="MOVIES or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot")
    catalog: str | None = Field(None, description="CATALOG folder with the titles, for models that read them")
    output: str = Field(description="folder of the PREDICTIONS table; the same command goes on where it was")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    actors: int | None = Field(None, ge=1, description="processes with a model each; null: one for each CPU or GPU")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware computes in it, else fp32")


def tag(config: TagConfig) -> Manifest:
    """One PREDICTIONS row for each movie, with a status.

    Raises:
        InputError: no checkpoint or one that is not trained, movies that cannot be read, ids that are not distinct,
            or a used output.
    """
    card = checkpoint.read_card(config.checkpoint)
    thresholds = trained_thresholds(card, config.checkpoint)
    source = TagInput(config.movies, config.catalog, with_titles=card.model.title)
    settings = config.to_settings(without=_PLACES)
    writer = TableWriter(
        config.output,
        PREDICTIONS,
        Recipe(job="tag", settings=settings, inputs=source.fingerprints | {"checkpoint": card.weights_sha256}),
    )
    found = writer.begin(overwrite=config.overwrite, keep="unfinished")
    if found is not None:
        return found
    staged = storage.join(config.output, _STAGED)
    table = source.table(staged)
    _run(config, table, source.schema, writer)
    drop_doubled(config.output, PREDICTIONS)
    storage.delete(staged)
    notes = {"checkpoint": config.checkpoint, "thresholds": thresholds.model_dump()}
    return writer.finish(rows_in=table.manifest.rows, expected_rows=table.manifest.rows, notes=notes)


def trained_thresholds(card: Card, directory: str) -> Thresholds:
    """The thresholds of a checkpoint.

    Raises:
        InputError: it has none: its training is not finished.
    """
    if card.thresholds is None:
        raise InputError(f"{directory}: an untrained model; expected the output of a finished jobs/train.py")
    return card.thresholds


def _run(config: TagConfig, table: Table, schema: pa.Schema, writer: TableWriter) -> None:
    """Tag the movies that have no prediction yet."""
    num_movies = table.manifest.rows - len(writer.written())
    if num_movies == 0:
        return
    cluster.connect()
    # Only now, because the processes of a run that was just killed live a little longer than it.
    done = pc.unique(writer.written()["imdb_id"])
    num_movies = table.manifest.rows - len(done)
    movies = read(table, schema.names, _WINDOW)
    if len(done):
        movies = movies.map_batches(
            Unfinished, fn_constructor_args=(ray.put(done),), batch_format="pyarrow", compute=ActorPoolStrategy(size=1)
        )
    predictions = movies.map_batches(
        Predict,
        fn_constructor_args=(storage.absolute(config.checkpoint), config.precision),
        batch_size=_WINDOW,
        batch_format="pyarrow",
        **_actors(config, num_movies),
    )
    progress = Progress("tag", num_movies)
    for statuses in write(predictions, config.output, PREDICTIONS, _ROWS_PER_PART):
        progress.add(statuses)


def _actors(config: TagConfig, num_movies: int) -> dict[str, Any]:
    """The pool: a fixed number of actors, each with one GPU where there are any, else with most of a CPU."""
    resources = ray.cluster_resources()
    cpus, use_gpu = int(resources.get("CPU", 0)), cluster.use_gpu(config.accelerator)
    places = int(resources.get("GPU", 0)) if use_gpu else cpus
    size = config.actors or max(1, min(places, -(-num_movies // _WINDOW)))
    share = 1 - cluster.SHARE_OF_WAITING if cpus > 1 else 1 - 2 * cluster.SHARE_OF_WAITING
    return {"compute": ActorPoolStrategy(size=size), "num_cpus": share, "num_gpus": 1 if use_gpu else None}


class Predict:
    """Ray Data stage: batches of ids and plots become PREDICTIONS rows."""

    def __init__(self, directory: str, precision: Precision):
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(cluster.assigned_cpus())
        card, model = checkpoint.load(directory)
        self._texts = card.model.texts
        self._cutoffs, self._temperature = trained_thresholds(card, directory).cutoffs(), card.temperature
        self._model, self._precision = model.to(self._device), precision

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row for each movie: its genres if it has a plot, else the reason why not."""
        plots = [(plot or "").strip() for plot in batch["plot"].to_pylist()]
        has_plot = np.array([bool(plot) for plot in plots])
        logits = np.zeros((len(plots), len(GENRES)), np.float32)
        titles = batch["title"].to_pylist() if "title" in batch.column_names else [None] * len(plots)
        known = [(title, plot) for title, plot in zip(titles, plots, strict=True) if plot]
        logits[has_plot] = self._logits(self._texts([title for title, _ in known], [plot for _, plot in known]))
        is_finite = np.atleast_1d(np.isfinite(logits).all(axis=1))
        tagged = has_plot & is_finite
        chances = probabilities(np.where(is_finite[:, None], logits, 0), self._temperature)
        decided = decide(chances.astype(np.float32), self._cutoffs)
        statuses = np.where(is_finite, PredictStatus.TEXT_ONLY, PredictStatus.ERROR)
        statuses[~has_plot] = PredictStatus.NO_INPUT
        return pa.table(
            {
                "imdb_id": batch["imdb_id"],
                "status": pa.array(statuses.tolist(), pa.string()),
                "probabilities": per_genre(chances, tagged),
                "genres": [decode(row) if known else None for row, known in zip(decided, tagged, strict=True)],
                "detail": pa.array(["a logit is not finite" if not good else None for good in is_finite], pa.string()),
            },
            schema=PREDICTIONS,
        )

    def _logits(self, texts: list[str]) -> np.ndarray:
        return predict_logits(self._model, self._model.encoder.encode(texts), self._device, self._precision)


class Unfinished:
    """Ray Data stage: drops the movies that an earlier run has finished."""

    def __init__(self, done: ray.ObjectRef):
        self._done = ray.get(done)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of which there is no prediction."""
        return batch.filter(pc.invert(pc.is_in(batch["imdb_id"], self._done)))
