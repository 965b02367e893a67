"""Movies → PREDICTIONS: every movie tagged by a trained model, one row for each, by Ray Data actors."""

from typing import Literal

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
from mmgenre.inference import Precision, actor_pool, own_device, predict_logits
from mmgenre.manifest import Manifest, Recipe
from mmgenre.models import Encoded, Movies
from mmgenre.progress import Progress
from mmgenre.schema import PREDICTIONS, PredictStatus, SplitName, per_genre
from mmgenre.streams import read, write
from mmgenre.tables import Table, TableWriter
from mmgenre.tag_input import TagInput
from mmgenre.thresholds import Calibration, Thresholds, decide, probabilities

_STAGED = "_staged"
# Settings that do not change what a row says.
_PLACES = ("checkpoint", "movies", "catalog", "posters", "output", "overwrite", "actors", "accelerator")
# Movies that an actor sorts by length together; of posters fewer, for their pixels' sake.
_WINDOW, _WINDOW_WITH_POSTERS = 2048, 512
_WINDOWS_PER_PART = 8


class TagConfig(Config):
    """Tag every movie of a table or a file."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    movies: str = Field(description="MOVIES or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot")
    split: SplitName = Field("all", description="of a MOVIES table, the movies to tag")
    catalog: str | None = Field(None, description="CATALOG folder with the titles, for models that read them")
    posters: str | None = Field(None, description="POSTERS folder with the images, for models that read them")
    without: Literal["plot", "poster"] | None = Field(
        None, description="what is not read though it may be known: movies are tagged by the other alone"
    )
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
    columns = _columns(card, config.without)
    source = TagInput(config.movies, columns, split=config.split, catalog=config.catalog, posters=config.posters)
    settings = config.to_settings(without=_PLACES)
    writer = TableWriter(
        config.output,
        PREDICTIONS,
        Recipe(job="tag", settings=settings, inputs=source.fingerprints | {"checkpoint": card.fingerprint}),
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


def _columns(card: Card, without: str | None) -> list[str]:
    """What is read of a movie."""
    hidden = {"plot": {"plot", "title"}, "poster": {"image"}, None: set()}[without]
    columns = [name for name in card.model.columns if name not in hidden]
    if not columns:
        raise InputError(f"without={without}: this model reads nothing else; leave it out")
    return columns


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
    window = _WINDOW_WITH_POSTERS if "image" in schema.names else _WINDOW
    movies = read(table, schema.names, window)
    if len(done):
        movies = movies.map_batches(
            Unfinished, fn_constructor_args=(ray.put(done),), batch_format="pyarrow", compute=ActorPoolStrategy(size=1)
        )
    predictions = movies.map_batches(
        Predict,
        fn_constructor_args=(storage.absolute(config.checkpoint), config.precision),
        batch_size=window,
        batch_format="pyarrow",
        **actor_pool(config.actors, config.accelerator, -(-num_movies // window)),
    )
    progress = Progress("tag", num_movies)
    for statuses in write(predictions, config.output, PREDICTIONS, _WINDOWS_PER_PART * window):
        progress.add(statuses)


class Predict:
    """Ray Data stage: batches of movies become PREDICTIONS rows."""

    def __init__(self, directory: str, precision: Precision):
        self._device = own_device()
        torch.set_num_threads(cluster.assigned_cpus())
        card, model = checkpoint.load(directory)
        self._calibrations = _calibrations(card, directory)
        self._model, self._precision = model.to(self._device), precision

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row for each movie: its genres if the model can read anything of it, else the reason why not."""
        movies = Movies.of(batch)
        encoded = self._model.encoder.encode(movies)
        logits = np.zeros((len(movies), len(GENRES)), np.float32)
        rows = np.flatnonzero(encoded.readable)
        logits[rows] = predict_logits(self._model, encoded.take(rows), self._device, self._precision)
        is_finite = np.atleast_1d(np.isfinite(logits).all(axis=1))
        tagged = encoded.readable & is_finite
        cutoffs, temperatures = self._calibrated(encoded)
        chances = probabilities(np.where(is_finite[:, None], logits, 0), temperatures)
        decided = decide(chances.astype(np.float32), cutoffs)
        is_broken = ~encoded.has_image & np.array([image is not None for image in movies.images], bool)
        statuses, details = _account(encoded, is_broken, is_finite)
        return pa.table(
            {
                "imdb_id": batch["imdb_id"],
                "status": pa.array(statuses.tolist(), pa.string()),
                "probabilities": per_genre(chances, tagged),
                "genres": [decode(row) if known else None for row, known in zip(decided, tagged, strict=True)],
                "detail": pa.array([detail or None for detail in details.tolist()], pa.string()),
            },
            schema=PREDICTIONS,
        )

    def _calibrated(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """Cut-offs, shape (N, 9), and temperatures, shape (N, 1), by what there is to be seen of each movie."""
        alone = [PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY]
        kinds = np.select([~encoded.has_image, ~encoded.has_text], alone, PredictStatus.TEXT_AND_POSTER)
        found = [self._calibrations[kind] for kind in kinds]
        cutoffs = np.array([one.thresholds.cutoffs() for one in found]).reshape(-1, len(GENRES))
        return cutoffs, np.array([one.temperature for one in found]).reshape(-1, 1)


def _calibrations(card: Card, directory: str) -> dict[str, Calibration]:
    """By what is seen of a movie."""
    usual = Calibration(thresholds=trained_thresholds(card, directory), temperature=card.temperature)
    kinds: list[str] = [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY]
    return dict.fromkeys(kinds, usual) | dict(card.alone)


def _account(encoded: Encoded, is_broken: np.ndarray, is_finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Status and detail of N movies, given which have a poster that cannot be decoded, and which have finite logits."""
    statuses = np.select(
        [
            ~is_finite,
            encoded.has_text & encoded.has_image,
            encoded.has_text,
            encoded.has_image,
            is_broken,
        ],
        [
            PredictStatus.ERROR,
            PredictStatus.TEXT_AND_POSTER,
            PredictStatus.TEXT_ONLY,
            PredictStatus.POSTER_ONLY,
            PredictStatus.ERROR,
        ],
        PredictStatus.NO_INPUT,
    )
    details = np.select(
        [~is_finite, is_broken], ["a logit is not finite", "the poster is not an image that can be decoded"], ""
    )
    return statuses, details


class Unfinished:
    """Ray Data stage: drops the movies that an earlier run has finished."""

    def __init__(self, done: ray.ObjectRef):
        self._done = ray.get(done)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of which there is no prediction."""
        return batch.filter(pc.invert(pc.is_in(batch["imdb_id"], self._done)))
