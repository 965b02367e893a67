"""The evaluate job: joins PREDICTIONS with the labels of MOVIES by `imdb_id` and scores them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mmgenre.config import Config, Requirements
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.scoring.metrics import Bootstrap, Scores, confidence_intervals, resampled_scores, scores
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables import storage
from mmgenre.tables.schema import MOVIES, PREDICTIONS, SplitName, from_per_genre, is_of_split
from mmgenre.tables.table import Table
from mmgenre.text_tables import aligned, three_decimals

REPORT = "report.json"
# Status of a movie without a row in PREDICTIONS.
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


class ScoringConfig(Config):
    """Which movies to score, and how to compute confidence intervals."""

    movies: str = Field(description="folder of a MOVIES table")
    split: SplitName = "test"
    having: Having = Field("any", description="score only movies with these inputs: a plot, a poster, both or only one")
    resamples: int = Field(1000, ge=1, description="bootstrap samples for the confidence intervals")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


class EvaluateConfig(ScoringConfig):
    """Score predictions against the labels of a dataset."""

    predictions: str = Field(description="folder of a PREDICTIONS table")
    output: str = Field(description="folder for report.json; an existing one is overwritten")
    global_threshold: float | None = Field(
        None, ge=0, le=1, description="cut-off for f1_of_averages; null: the one recorded with the predictions"
    )

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (Requirements(inputs=(self.predictions, self.movies), outputs=(self.output,)),)


class Report(Config):
    """The scores of one set of predictions. `str(report)` is what the job prints."""

    split: str
    having: Having = "any"
    movies: int = Field(description="number of scored movies")
    unpredicted: int = Field(description="movies without probabilities, scored as 0 for every genre")
    statuses: dict[str, int] = Field(description="movies per prediction status; missing: not in the predictions")
    scores: Scores
    intervals: dict[str, tuple[float, float]] = Field(description="95 % intervals, keyed as in resampled_scores")
    resamples: int
    seed: int
    weights_sha256: str | None = Field(description="SHA-256 of the model's weights; null: not recorded")
    predictions_fingerprint: str
    dataset_fingerprint: str

    def __str__(self) -> str:
        """The scores as aligned text tables."""
        return "\n\n".join([self._movies_text(), self._averages_text(), self._single_text(), self._genres_text()])

    def _movies_text(self) -> str:
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        having = "" if self.having == "any" else f" having {self.having}"
        lines = [f"split {self.split}{having}: {self.movies:,} movies ({statuses})"]
        if self.unpredicted:
            share = self.unpredicted / self.movies
            lines.append(f"{self.unpredicted:,} of them ({share:.1%}) have no prediction and count as having no genre")
        return "\n".join(lines)

    def _averages_text(self) -> str:
        rows = [["average", "precision", "recall", "F1", "95 % interval"]]
        for name in ("micro", "macro", "weighted", "samples"):
            average = getattr(self.scores, name)
            rows.append(
                [name, *three_decimals(average.precision, average.recall, average.f1), self.interval(f"{name}_f1")]
            )
        return aligned(rows)

    def _single_text(self) -> str:
        scores = self.scores
        return aligned(
            [
                ["mAP", *three_decimals(scores.mean_average_precision), self.interval("mean_average_precision")],
                ["f1_of_averages", *three_decimals(scores.f1_of_averages), self.interval("f1_of_averages")],
                ["  at global threshold", *three_decimals(scores.global_threshold), ""],
                ["Hamming loss", *three_decimals(scores.hamming_loss), ""],
                ["subset accuracy", *three_decimals(scores.subset_accuracy), ""],
                ["calibration error", *three_decimals(scores.expected_calibration_error), ""],
            ]
        )

    def _genres_text(self) -> str:
        rows = [["genre", "precision", "recall", "F1", "95 % interval", "AP", "movies", "predicted"]]
        for genre in self.scores.genres:
            average_precision = "-" if genre.average_precision is None else f"{genre.average_precision:.3f}"
            counts = [f"{genre.support:,}", f"{genre.predicted:,}"]
            f1 = [*three_decimals(genre.precision, genre.recall, genre.f1), self.interval(genre.genre)]
            rows.append([genre.genre, *f1, average_precision, *counts])
        return aligned(rows)

    def interval(self, name: str) -> str:
        """The named score's 95 % interval as text."""
        low, high = self.intervals[name]
        return f"[{low:.3f}, {high:.3f}]"


def evaluate(config: EvaluateConfig) -> Report:
    """Score the predictions and write report.json.

    A movie without probabilities, or without any prediction, counts as probability 0 for every genre.

    Raises:
        InputError: a table is missing or of another kind, the split is empty, none of its movies is in the predictions,
            a predicted genre is unknown, or there is no global threshold.
    """
    report = score_predictions(GroundTruth.of(config), config.predictions, config.global_threshold).report
    storage.write_bytes(storage.join(config.output, REPORT), report.model_dump_json(indent=2).encode())
    return report


@dataclass(frozen=True)
class GroundTruth:
    """The movies to score and their labels.

    Args:
        config: how the movies were selected.
        ids: the ids of N movies, ascending.
        labels: shape (N, 9).
        fingerprint: the dataset's fingerprint.
    """

    config: ScoringConfig
    ids: pa.ChunkedArray
    labels: np.ndarray
    fingerprint: str

    @classmethod
    def of(cls, config: ScoringConfig) -> "GroundTruth":
        """The movies that a config selects.

        Raises:
            InputError: the table is missing or of another kind, or the config selects no movie.
        """
        movies = Table(config.movies, MOVIES)
        rows = _movies_of(movies, config)
        return cls(config, rows["imdb_id"], from_per_genre(rows["labels"]), movies.manifest.fingerprint)


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions matched with the ground truth, and their scores.

    Args:
        report: the scores.
        resampled: scores of the bootstrap samples behind the report's intervals.
        probabilities: shape (N, 9), in the order of the ground truth; 0 for movies without a prediction.
        decided: predicted genres, shape (N, 9), bool.
        is_predicted: whether the movie has a prediction, shape (N,), bool.
    """

    report: Report
    resampled: dict[str, np.ndarray]
    probabilities: np.ndarray
    decided: np.ndarray
    is_predicted: np.ndarray


def score_predictions(truth: GroundTruth, directory: str, global_threshold: float | None = None) -> ScoredPredictions:
    """Score the predictions in a folder; see `evaluate` for arguments and errors."""
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
        statuses={value["values"]: value["counts"] for value in rows["status"].value_counts().to_pylist()},
        scores=scores(probabilities, decided, truth.labels, threshold),
        intervals=confidence_intervals(resampled),
        resamples=config.resamples,
        seed=config.seed,
        weights_sha256=model_weights_sha256(predictions),
        predictions_fingerprint=predictions.manifest.fingerprint,
        dataset_fingerprint=truth.fingerprint,
    )
    return ScoredPredictions(report, resampled, probabilities, decided, predicted)


def model_weights_sha256(predictions: Table) -> str | None:
    """SHA-256 of the weights that made the predictions; None if the table's manifest does not record it."""
    weights: str | None = predictions.manifest.recipe.settings.get("model", {}).get("weights")
    return weights


def _threshold_of(predictions: Table) -> float:
    recorded = predictions.manifest.notes.get("thresholds")
    if recorded is None:
        raise InputError(
            f"{predictions.directory}: no thresholds are recorded with these predictions; "
            "give the cut-off for f1_of_averages, for example global_threshold=0.3"
        )
    return Thresholds.parse(recorded, where=f"{predictions.directory}: recorded thresholds").global_threshold


def _movies_of(movies: Table, config: ScoringConfig) -> pa.Table:
    """Ids and labels of the selected movies, sorted by id."""
    rows = movies.read(["imdb_id", "labels"], filter=is_of_split(config.split) & _HAVING[config.having])
    if not rows.num_rows:
        counts = movies.read(["split"])["split"].value_counts().to_pylist()
        splits = ", ".join(f"{value['values']} {value['counts']:,}" for value in counts) or "no movies at all"
        having = "" if config.having == "any" else f" with {config.having}"
        raise InputError(f"{movies.directory}: no movies in split {config.split}{having}; the table has {splits}")
    # Sums and bootstrap samples depend on the order, and the table's depends on the order in which posters arrived.
    return rows.sort_by("imdb_id")


def _joined(truth: GroundTruth, predictions: Table) -> pa.Table:
    """One row per movie of the ground truth, in its order: the prediction, or nulls with the status `missing`."""
    is_in_truth = pc.field("imdb_id").isin(truth.ids.combine_chunks())
    rows = predictions.read(["imdb_id", "status", "probabilities", "genres"], filter=is_in_truth)
    if not rows.num_rows:
        others = predictions.dataset.head(3, columns=["imdb_id"])["imdb_id"]
        raise InputError(
            f"{predictions.directory}: none of its movies ({_examples(others)}) is in split {truth.config.split} of "
            f"{truth.config.movies} ({_examples(truth.ids)}); give predictions of that split"
        )
    matches = pc.index_in(truth.ids, value_set=rows["imdb_id"].combine_chunks())
    joined = rows.select(["status", "probabilities", "genres"]).take(matches)
    return joined.set_column(0, "status", pc.fill_null(joined["status"], MISSING))


def _examples(ids: pa.ChunkedArray) -> str:
    return ", ".join(ids[:3].to_pylist()) or "none at all"


def _decisions(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """The genres listed in each row, shape (N, 9), bool."""
    lists = column.combine_chunks()
    names = pc.list_flatten(lists)
    columns = pc.index_in(names, value_set=pa.array(GENRES))
    if columns.null_count:
        unknown = pc.unique(names.filter(columns.is_null())).to_pylist()
        raise InputError(f"{where}: unknown genres {unknown[:3]}; expected some of {', '.join(GENRES)}")
    decided = np.zeros((len(lists), len(GENRES)), bool)
    decided[pc.list_parent_indices(lists).to_numpy(), columns.to_numpy()] = True
    return decided
