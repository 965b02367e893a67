"""Batch inference by Ray Data actors: units of staged rows become Parquet files of probabilities."""

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray.data
import torch

from mmgenre import ray_session
from mmgenre.errors import InputError, one_line
from mmgenre.labels import GENRES
from mmgenre.models import EncodedMovies, Movies, checkpoint
from mmgenre.models.inference import Precision, Predictor, local_device, map_batches_options
from mmgenre.progress import Progress
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.thresholds import probabilities
from mmgenre.tables import storage
from mmgenre.tables.schema import PredictStatus, per_genre
from mmgenre.tables.streams import mistake_in
from mmgenre.tables.table import count_values
from mmgenre.tagging.decisions import calibrations
from mmgenre.tagging.input import DIGEST
from mmgenre.tagging.units import TAGGED, Unit, UnitReader, WorkFolder


@dataclass(frozen=True)
class InferenceSettings:
    """How units are computed.

    Args:
        checkpoint: folder of the model.
        actors: number of processes, each with a model; None: as many as the cluster has room for.
        cpus_per_actor: CPUs and threads per actor.
        accelerator: whether to use GPUs.
        precision: see Predictor.
        keeps: columns of the input to copy to the results.
    """

    checkpoint: str
    actors: int | None
    cpus_per_actor: int
    accelerator: Accelerator
    precision: Precision
    keeps: tuple[str, ...]


@dataclass
class InferenceStats:
    """How many movies a run computed, and how long it took.

    Args:
        computed_in: number of movies by precision.
        start_s: seconds until the first unit was started.
        compute_s: seconds from then until the last unit was finished.
        busy_s: seconds that all actors together spent on units.
        actors: number of actors.
    """

    computed_in: Counter[str] = field(default_factory=Counter)
    start_s: float = 0.0
    compute_s: float = 0.0
    busy_s: float = 0.0
    actors: int = 0

    def notes(self, **seconds: float) -> dict[str, Any]:
        """The entries of the manifest's notes; `seconds` are the times of the job's other steps, by name."""
        seconds |= {"start": self.start_s, "compute": self.compute_s, "busy": self.busy_s}
        return {
            "actors": self.actors,
            "computed_in": dict(self.computed_in),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }


def compute_units(
    work: WorkFolder,
    image_files: list[str],
    settings: InferenceSettings,
    stage: "type[UnitStage] | None" = None,
) -> InferenceStats:
    """Compute all units that have no result file, with the given stage, by default TagUnits."""
    stage = stage or TagUnits
    stats, called = InferenceStats(), time.time()
    if not work.unfinished():
        return stats
    ray_session.connect()
    # Listed again, because actors of a run that was just killed outlive it for a while and finish their units.
    units = work.unfinished()
    progress = Progress(stage.job, sum(unit.rows for unit in units))
    options = map_batches_options(settings.actors, settings.accelerator, len(units), settings.cpus_per_actor)
    results = ray.data.from_items([vars(unit) for unit in units], override_num_blocks=len(units)).map_batches(
        stage,
        fn_constructor_args=(work, UnitReader(work, image_files), settings),
        batch_size=None,
        batch_format="pyarrow",
        **options,
    )
    stats.actors, first_started = options["compute"].min_size, float("inf")
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for unit in batch.to_pylist():
                progress.add(dict(unit["statuses"]))
                stats.computed_in[unit["precision"]] += unit["rows"]
                stats.busy_s += unit["seconds"]
                first_started = min(first_started, unit["began"])
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None
    stats.start_s = max(0.0, first_started - called)
    stats.compute_s = time.time() - max(first_started, called)
    return stats


class UnitStage:
    """Ray Data stage that writes the results of each unit to a file, and returns one row of counts per unit.

    Subclasses compute the results; `job` is the name in their progress lines.
    """

    job: ClassVar[str]
    precision: str

    def __init__(self, work: WorkFolder, reader: UnitReader, settings: InferenceSettings):
        torch.set_num_threads(ray_session.assigned_cpus())
        self._work, self._reader, self._keeps = work, reader, settings.keeps

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Compute units; yields one row per unit: its row counts by status, precision and time."""
        for row in batch.to_pylist():
            unit, began = Unit(**row), time.time()
            rows = self._reader.read(unit)
            tagged = self.results(rows)
            for name in self._keeps:
                tagged = tagged.append_column(rows.schema.field(name).with_nullable(True), rows[name])
            self._work.write(unit, tagged)
            counts = list(count_values(tagged["status"]).items())
            pairs = pa.map_(pa.string(), pa.int64())
            yield pa.table(
                {
                    "rows": [unit.rows],
                    "statuses": pa.array([counts], pairs),
                    "precision": [self.precision],
                    "began": [began],
                    "seconds": [time.time() - began],
                }
            )

    @abstractmethod
    def results(self, rows: pa.Table) -> pa.Table:
        """One row with a status for each row of a unit."""


class TagUnits(UnitStage):
    """Tags the movies of each unit."""

    job = "tag"

    def __init__(self, work: WorkFolder, reader: UnitReader, settings: InferenceSettings):
        super().__init__(work, reader, settings)
        self._tagger = Tagger.load(settings.checkpoint, settings.precision)

    @property
    def precision(self) -> str:  # type: ignore[override]
        """The precision in use; `auto` is resolved on the first unit."""
        return self._tagger.precision

    def results(self, rows: pa.Table) -> pa.Table:
        """Probabilities and status of each row of a unit."""
        return self._tagger.tag(rows)


class Tagger:
    """Computes probabilities and statuses of movies.

    Args:
        directory: folder of the checkpoint.
        card: the checkpoint's card.
        predictor: the checkpoint's model.
    """

    def __init__(self, directory: str, card: checkpoint.Card, predictor: Predictor):
        self._predictor, self._calibrations = predictor, calibrations(card, directory)

    @classmethod
    def load(cls, directory: str, precision: Precision) -> "Tagger":
        """Load a checkpoint onto this process's device."""
        card, model = checkpoint.load(directory)
        return cls(directory, card, Predictor(model, local_device(), precision))

    @property
    def precision(self) -> str:
        """The precision that the model computes in."""
        return self._predictor.precision

    def tag(self, rows: pa.Table) -> pa.Table:
        """One row per movie: its probabilities, or the reason why there are none.

        A row that the model fails on gets the status `error`. If it fails on all of several rows, the model is broken,
        and the first error is raised.

        Args:
            rows: with an id, a digest, and the columns that the model reads.
        """
        failures: list[Exception] = []
        tagged = self._tag_or_halve(rows, failures)
        if len(failures) == len(rows) > 1:
            raise failures[0]
        return tagged

    def _tag_or_halve(self, rows: pa.Table, failures: list[Exception]) -> pa.Table:
        """Tag rows; on an error, each half by itself, until only the rows that cause it are left."""
        try:
            return self._tag(rows)
        except InputError:
            raise
        except Exception as error:
            if len(rows) == 1:
                failures.append(error)
                return _result(rows, np.zeros((1, len(GENRES))), [PredictStatus.ERROR], [describe_error(error)])
        half = len(rows) // 2
        halves = (rows.slice(0, half), rows.slice(half))
        return pa.concat_tables([self._tag_or_halve(part, failures) for part in halves])

    def _tag(self, rows: pa.Table) -> pa.Table:
        movies = Movies.of(rows)
        encoded = self._predictor.encoder.encode(movies)
        logits = np.zeros((len(movies), len(GENRES)), np.float32)
        readable = np.flatnonzero(encoded.readable)
        logits[readable] = self._predictor.logits(encoded.take(readable))
        is_finite = np.asarray(np.isfinite(logits).all(axis=1))
        is_broken = ~encoded.has_image & np.array([image is not None for image in movies.images], bool)
        statuses, details = _statuses(encoded, is_broken, is_finite)
        calibrated = probabilities(np.where(is_finite[:, None], logits, 0), self._temperatures(statuses))
        return _result(rows, calibrated, statuses.tolist(), [detail or None for detail in details.tolist()])

    def _temperatures(self, statuses: np.ndarray) -> np.ndarray:
        """Each movie's temperature, shape (N, 1)."""
        by_status = {status: calibration.temperature for status, calibration in self._calibrations.items()}
        return np.array([by_status.get(status, 1.0) for status in statuses]).reshape(-1, 1)


def measure(directory: str, rows: pa.Table, precision: Precision) -> float:
    """Throughput of one process on this machine after a warm-up, in movies per second."""
    tagger = Tagger.load(storage.absolute(directory), precision)
    tagger.tag(rows)
    start = time.perf_counter()
    tagger.tag(rows)
    return len(rows) / (time.perf_counter() - start)


def _result(rows: pa.Table, values: np.ndarray, statuses: list[str], details: list[str | None]) -> pa.Table:
    tagged = np.isin(statuses, [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY])
    columns = {
        "imdb_id": rows["imdb_id"],
        "status": pa.array([str(status) for status in statuses], pa.string()),
        "probabilities": per_genre(values, tagged),
        "detail": pa.array(details, pa.string()),
        DIGEST: rows[DIGEST],
    }
    return pa.table(columns, schema=TAGGED)


def _statuses(encoded: EncodedMovies, is_broken: np.ndarray, is_finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Status and detail of N movies.

    Args:
        encoded: the movies.
        is_broken: shape (N,), bool: the poster cannot be decoded.
        is_finite: shape (N,), bool: all logits are finite.
    """
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


def describe_error(error: Exception) -> str:
    """The `detail` of a row whose computation raised an error."""
    return f"{type(error).__name__}: {one_line(error)}"[:200]
