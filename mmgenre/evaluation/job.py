"""PREDICTIONS and the labels of MOVIES → Report: joined by `imdb_id`, scored, printed, written as JSON."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.scoring.metrics import Bootstrap, Scores, intervals, resampled_scores, scores
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables import storage
from mmgenre.tables.schema import MOVIES, PREDICTIONS, SplitName, from_per_genre, is_of_split
from mmgenre.tables.table import Table
from mmgenre.text_tables import aligned, figures

REPORT = "report.json"
MISSING = "missing"


Having = Literal["any", "plot", "poster", "both", "plot only", "poster only"]
_PLOT, _POSTER = pc.field("plot").is_valid(), pc.field("image").is_valid()
_HAVING: dict[Having, pc.Expression] = {
    "any": pc.scalar(True),
    "plot": _PLOT,
    "poster": _POSTER,
    "both": _PLOT & _POSTER,
    "plot only": _PLOT & ~_POSTER,
    "poster only": _POSTER & ~_PLOT,
}


class JudgeConfig(Config):
    """Which movies are scored, and how intervals are drawn."""

    movies: str = Field(description="folder of a MOVIES table")
    split: SplitName = "test"
    having: Having = Field(
        "any", description="only movies of the split that have these; the only ones have nothing else"
    )
    resamples: int = Field(1000, ge=1, description="bootstrap resamples of the movies, for the intervals")
    seed: int = Field(0, ge=0, description="of the resamples")


class EvaluateConfig(JudgeConfig):
    """Score predictions against the labels of a dataset."""

    predictions: str = Field(description="folder of a PREDICTIONS table")
    output: str = Field(description="folder for report.json, which is replaced")
    global_threshold: float | None = Field(
        None, ge=0, le=1, description="cut-off of f1_of_averages; null takes the one recorded with the predictions"
    )


class Report(Config):
    """The scores of one set of predictions; its text is what the job prints."""

    split: str
    having: Having = "any"
    movies: int = Field(description="movies of the split that have what they must, all of them scored")
    unpredicted: int = Field(description="movies without probabilities: scored as 0 for every genre")
    statuses: dict[str, int] = Field(description="movies by status of their prediction; missing: there is none")
    scores: Scores
    intervals: dict[str, tuple[float, float]] = Field(description="95 % intervals, as resampled_scores names them")
    resamples: int
    seed: int
    weights_sha256: str | None = Field(description="of the model that predicted; null: the predictions do not say")
    predictions_fingerprint: str
    dataset_fingerprint: str

    def __str__(self) -> str:
        """The scores as aligned text."""
        return "\n\n".join([self._movies_text(), self._averages_text(), self._single_text(), self._genres_text()])

    def _movies_text(self) -> str:
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        having = "" if self.having == "any" else f" having {self.having}"
        lines = [f"split {self.split}{having}: {self.movies:,} movies ({statuses})"]
        if self.unpredicted:
            share = self.unpredicted / self.movies
            lines.append(
                f"{self.unpredicted:,} of them ({share:.1%}) have no prediction; each counts as no genre at all"
            )
        return "\n".join(lines)

    def _averages_text(self) -> str:
        rows = [["average", "precision", "recall", "F1", "95 % interval"]]
        for name in ("micro", "macro", "weighted", "samples"):
            average = getattr(self.scores, name)
            rows.append([name, *figures(average.precision, average.recall, average.f1), self.interval(f"{name}_f1")])
        return aligned(rows)

    def _single_text(self) -> str:
        found = self.scores
        return aligned(
            [
                ["mAP", *figures(found.mean_average_precision), self.interval("mean_average_precision")],
                ["f1_of_averages", *figures(found.f1_of_averages), self.interval("f1_of_averages")],
                ["  at global threshold", *figures(found.global_threshold), ""],
                ["Hamming loss", *figures(found.hamming_loss), ""],
                ["subset accuracy", *figures(found.subset_accuracy), ""],
                ["calibration error", *figures(found.expected_calibration_error), ""],
            ]
        )

    def _genres_text(self) -> str:
        rows = [["genre", "precision", "recall", "F1", "95 % interval", "AP", "movies", "predicted"]]
        for one in self.scores.genres:
            precision = "-" if one.average_precision is None else f"{one.average_precision:.3f}"
            counts = [f"{one.support:,}", f"{one.predicted:,}"]
            f1 = [*figures(one.precision, one.recall, one.f1), self.interval(one.genre)]
            rows.append([one.genre, *f1, precision, *counts])
        return aligned(rows)

    def interval(self, name: str) -> str:
        """An interval as text."""
        low, high = self.intervals[name]
        return f"[{low:.3f}, {high:.3f}]"


def evaluate(config: EvaluateConfig) -> Report:
    """Score every movie of the split and write report.json.

    A movie without a prediction, or with one without probabilities, counts as probability 0 and no genre.

    Raises:
        InputError: a table is missing or of another kind, the split is empty, no movie of it is in the predictions,
            a predicted genre is unknown, or there is no global threshold.
    """
    report = judge(Truth.of(config), config.predictions, config.global_threshold).report
    storage.write_bytes(storage.join(config.output, REPORT), report.model_dump_json(indent=2).encode())
    return report


@dataclass(frozen=True)
class Truth:
    """The movies to be scored.

    Args:
        config: which they are.
        ids: of N movies, in order.
        labels: shape (N, 9).
        fingerprint: of their dataset.
    """

    config: JudgeConfig
    ids: pa.ChunkedArray
    labels: np.ndarray
    fingerprint: str

    @classmethod
    def of(cls, config: JudgeConfig) -> "Truth":
        """Those that a config asks for; an InputError if there are none."""
        movies = Table(config.movies, MOVIES)
        rows = _movies_of(movies, config)
        return cls(config, rows["imdb_id"], from_per_genre(rows["labels"]), movies.manifest.fingerprint)


@dataclass(frozen=True)
class Judged:
    """A report, and what it was made from.

    Args:
        report: the scores.
        resampled: scores of resampled movies, which its intervals come from.
        probabilities: shape (N, 9), of the movies of the truth; 0 where there is no prediction.
        decided: shape (N, 9), bool.
        is_predicted: shape (N,), bool: whether there is a prediction.
    """

    report: Report
    resampled: dict[str, np.ndarray]
    probabilities: np.ndarray
    decided: np.ndarray
    is_predicted: np.ndarray


def judge(truth: Truth, directory: str, global_threshold: float | None = None) -> Judged:
    """Score the predictions in a folder; arguments and errors are those of `evaluate`."""
    predictions, config = Table(directory, PREDICTIONS), truth.config
    threshold = _threshold_of(predictions) if global_threshold is None else global_threshold
    rows = _joined(truth, predictions)
    probabilities = from_per_genre(rows["probabilities"])
    predicted = np.isfinite(probabilities).all(axis=1)
    probabilities[~predicted] = 0
    decided = _decisions(rows["genres"], directory) & predicted[:, None]
    bootstrap = Bootstrap(resamples=config.resamples, seed=config.seed)
    resampled = resampled_scores(probabilities, decided, truth.labels, threshold, bootstrap)
    report = Report(
        split=config.split,
        having=config.having,
        movies=len(truth.labels),
        unpredicted=int(np.count_nonzero(~predicted)),
        statuses={entry["values"]: entry["counts"] for entry in rows["status"].value_counts().to_pylist()},
        scores=scores(probabilities, decided, truth.labels, threshold),
        intervals=intervals(resampled),
        resamples=config.resamples,
        seed=config.seed,
        weights_sha256=weights_of(predictions),
        predictions_fingerprint=predictions.manifest.fingerprint,
        dataset_fingerprint=truth.fingerprint,
    )
    return Judged(report, resampled, probabilities, decided, predicted)


def weights_of(predictions: Table) -> str | None:
    """The SHA-256 of the weights that predicted; None: the table does not say."""
    found: str | None = predictions.manifest.recipe.settings.get("model", {}).get("weights")
    return found


def _threshold_of(predictions: Table) -> float:
    recorded = predictions.manifest.notes.get("thresholds")
    if recorded is None:
        raise InputError(
            f"{predictions.directory}: no thresholds are recorded with these predictions; "
            "give the cut-off of f1_of_averages, such as global_threshold=0.3"
        )
    return Thresholds.parse(recorded, where=f"{predictions.directory}: recorded thresholds").global_threshold


def _movies_of(movies: Table, config: JudgeConfig) -> pa.Table:
    """Ids and labels of the movies to be scored, ordered by id."""
    found = movies.read(["imdb_id", "labels"], filter=is_of_split(config.split) & _HAVING[config.having])
    if not found.num_rows:
        counts = movies.read(["split"])["split"].value_counts().to_pylist()
        splits = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in counts) or "no movies at all"
        having = "" if config.having == "any" else f" that have {config.having}"
        raise InputError(f"{movies.directory}: no movies in split {config.split}{having}; it holds {splits}")
    # Sums, and what the bootstrap draws, depend on the order; that of the table is the order in which posters came.
    return found.sort_by("imdb_id")


def _joined(truth: Truth, predictions: Table) -> pa.Table:
    """One row for each movie, in that order: its prediction, or nulls and the status missing."""
    wanted = pc.field("imdb_id").isin(truth.ids.combine_chunks())
    rows = predictions.read(["imdb_id", "status", "probabilities", "genres"], filter=wanted)
    if not rows.num_rows:
        others = predictions.dataset.head(3, columns=["imdb_id"])["imdb_id"]
        raise InputError(
            f"{predictions.directory}: its movies ({_examples(others)}) are none of split {truth.config.split} of "
            f"{truth.config.movies} ({_examples(truth.ids)}); give the predictions of those movies"
        )
    places = pc.index_in(truth.ids, value_set=rows["imdb_id"].combine_chunks())
    found = rows.select(["status", "probabilities", "genres"]).take(places)
    return found.set_column(0, "status", pc.fill_null(found["status"], MISSING))


def _examples(ids: pa.ChunkedArray) -> str:
    return ", ".join(ids[:3].to_pylist()) or "it has none"


def _decisions(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Shape (N, 9), bool: the genres named in each row."""
    lists = column.combine_chunks()
    names = pc.list_flatten(lists)
    columns = pc.index_in(names, value_set=pa.array(GENRES))
    if columns.null_count:
        unknown = pc.unique(names.filter(columns.is_null())).to_pylist()
        raise InputError(f"{where}: predicts {unknown[:3]}; this mmgenre knows the genres {', '.join(GENRES)}")
    decided = np.zeros((len(lists), len(GENRES)), bool)
    decided[pc.list_parent_indices(lists).to_numpy(), columns.to_numpy()] = True
    return decided
