"""The stage that computes: units of staged movies become files of probabilities, by Ray Data actors."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError, one_line
from mmgenre.labels import GENRES
from mmgenre.models import Encoded, Movies, checkpoint
from mmgenre.models.inference import Precision, Predictor, actor_pool, own_device
from mmgenre.progress import Progress
from mmgenre.ray_session import Accelerator
from mmgenre.scoring.thresholds import probabilities
from mmgenre.tables import storage
from mmgenre.tables.schema import PredictStatus, per_genre
from mmgenre.tables.streams import mistake_in
from mmgenre.tables.table import count_values
from mmgenre.tagging.decisions import calibrations
from mmgenre.tagging.input import DIGEST
from mmgenre.tagging.units import TAGGED, Reader, Unit, Work


@dataclass(frozen=True)
class Computing:
    """How units are computed.

    Args:
        checkpoint: folder of the model.
        actors: processes with a model each; None: as many as there are places for.
        cpus_per_actor: CPUs of each, and threads.
        accelerator: whether on GPUs.
        precision: see Predictor.
        keeps: columns that are handed on.
    """

    checkpoint: str
    actors: int | None
    cpus_per_actor: int
    accelerator: Accelerator
    precision: Precision
    keeps: tuple[str, ...]


@dataclass
class Account:
    """What a run computed, and where its time went.

    Args:
        computed_in: movies by precision.
        start_s: seconds until the first unit was begun.
        compute_s: seconds from then on.
        busy_s: seconds of all actors' work on units, together.
        actors: how many there were.
    """

    computed_in: Counter[str] = field(default_factory=Counter)
    start_s: float = 0.0
    compute_s: float = 0.0
    busy_s: float = 0.0
    actors: int = 0

    def notes(self, **seconds: float) -> dict[str, Any]:
        """What a manifest remembers of it; seconds: that other steps of the job took, by name."""
        seconds |= {"start": self.start_s, "compute": self.compute_s, "busy": self.busy_s}
        return {
            "actors": self.actors,
            "computed_in": dict(self.computed_in),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }


def predict(work: Work, image_files: list[str], computing: Computing, stage: "type[Predict] | None" = None) -> Account:
    """Compute the units that have no result; stage: what computes them, by default Predict."""
    stage = stage or Predict
    account, began = Account(), time.time()
    units = work.unfinished()
    if not units:
        return account
    cluster.connect()
    # Only now, because the processes of a run that was just killed live a little longer than it.
    units = work.unfinished()
    progress = Progress(stage.job, sum(unit.rows for unit in units))
    pool = actor_pool(computing.actors, computing.accelerator, len(units), computing.cpus_per_actor)
    results = ray.data.from_items([vars(unit) for unit in units], override_num_blocks=len(units)).map_batches(
        stage,
        fn_constructor_args=(work, Reader(work, image_files), computing),
        batch_size=None,
        batch_format="pyarrow",
        **pool,
    )
    account.actors, first = pool["compute"].min_size, float("inf")
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for unit in batch.to_pylist():
                progress.add(dict(unit["statuses"]))
                account.computed_in[unit["precision"]] += unit["rows"]
                account.busy_s += unit["seconds"]
                first = min(first, unit["began"])
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None
    account.start_s, account.compute_s = max(0.0, first - began), time.time() - max(first, began)
    return account


class Predict:
    """Ray Data stage: units in, an account of each out; their results are files by then."""

    job = "tag"

    def __init__(self, work: Work, reader: Reader, computing: Computing):
        torch.set_num_threads(cluster.assigned_cpus())
        self._work, self._reader, self._keeps = work, reader, computing.keeps
        self._tagger = Tagger.load(computing.checkpoint, computing.precision)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Each unit's rows by status."""
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
                    "precision": [self._tagger.precision],
                    "began": [began],
                    "seconds": [time.time() - began],
                }
            )

    def results(self, rows: pa.Table) -> pa.Table:
        """One row for each of a unit's rows, with a status."""
        return self._tagger.tag(rows)


class Tagger:
    """Gives movies probabilities and statuses.

    Args:
        directory: of the checkpoint.
        card: the checkpoint's.
        predictor: its model.
    """

    def __init__(self, directory: str, card: checkpoint.Card, predictor: Predictor):
        self._predictor, self._calibrations = predictor, calibrations(card, directory)

    @classmethod
    def load(cls, directory: str, precision: Precision) -> "Tagger":
        """From a checkpoint, for this process's device."""
        card, model = checkpoint.load(directory)
        return cls(directory, card, Predictor(model, own_device(), precision))

    @property
    def precision(self) -> str:
        """What it computes in."""
        return self._predictor.precision

    def tag(self, rows: pa.Table) -> pa.Table:
        """One row for each movie: its probabilities if the model can read anything of it, else the reason why not.

        A row that the model fails on is one with the status `error`; where it fails on all, the model is what fails.

        Args:
            rows: with an id, a digest, and what the model reads.
        """
        failures: list[Exception] = []
        tagged = self._tag_or_halve(rows, failures)
        if len(failures) == len(rows) > 1:
            raise failures[0]
        return tagged

    def _tag_or_halve(self, rows: pa.Table, failures: list[Exception]) -> pa.Table:
        try:
            return self._tag(rows)
        except InputError:
            raise
        except Exception as error:
            if len(rows) == 1:
                failures.append(error)
                return _result(rows, np.zeros((1, len(GENRES))), [PredictStatus.ERROR], [said_by(error)])
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
        statuses, details = _account(encoded, is_broken, is_finite)
        chances = probabilities(np.where(is_finite[:, None], logits, 0), self._temperatures(statuses))
        return _result(rows, chances, statuses.tolist(), [detail or None for detail in details.tolist()])

    def _temperatures(self, statuses: np.ndarray) -> np.ndarray:
        """Shape (N, 1)."""
        known = {status: one.temperature for status, one in self._calibrations.items()}
        return np.array([known.get(status, 1.0) for status in statuses]).reshape(-1, 1)


def measure(directory: str, rows: pa.Table, precision: Precision) -> float:
    """Movies a second that one process of this machine tags, once it has begun."""
    tagger = Tagger.load(storage.absolute(directory), precision)
    tagger.tag(rows)
    began = time.perf_counter()
    tagger.tag(rows)
    return len(rows) / (time.perf_counter() - began)


def _result(rows: pa.Table, chances: np.ndarray, statuses: list[str], details: list[str | None]) -> pa.Table:
    tagged = np.isin(statuses, [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY])
    columns = {
        "imdb_id": rows["imdb_id"],
        "status": pa.array([str(status) for status in statuses], pa.string()),
        "probabilities": per_genre(chances, tagged),
        "detail": pa.array(details, pa.string()),
        DIGEST: rows[DIGEST],
    }
    return pa.table(columns, schema=TAGGED)


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


def said_by(error: Exception) -> str:
    """What stands in the detail of a row that an error was raised for."""
    return f"{type(error).__name__}: {one_line(error)}"[:200]
