"""PREDICTIONS and the labels of MOVIES → Report: joined by `imdb_id`, scored, printed, written as JSON."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mmgenre import storage
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.genres import GENRES
from mmgenre.metrics import Bootstrap, Scores, bootstrap_intervals, scores
from mmgenre.schema import MOVIES, PREDICTIONS, from_per_genre
from mmgenre.tables import Table
from mmgenre.thresholds import Thresholds

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


class EvaluateConfig(Config):
    """Score predictions against the labels of a dataset."""

    predictions: str = Field(description="folder of a PREDICTIONS table")
    movies: str = Field(description="folder of a MOVIES table")
    output: str = Field(description="folder for report.json, which is replaced")
    split: Literal["train", "val", "test", "all"] = "test"
    having: Having = Field(
        "any", description="only movies of the split that have these; the only ones have nothing else"
    )
    resamples: int = Field(1000, ge=1, description="bootstrap resamples of the movies, for the intervals")
    seed: int = Field(0, ge=0, description="of the resamples")
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
    intervals: dict[str, tuple[float, float]] = Field(description="95 % intervals, as bootstrap_intervals names them")
    resamples: int
    seed: int
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
            rows.append([name, *_figures(average.precision, average.recall, average.f1), self.interval(f"{name}_f1")])
        return _aligned(rows)

    def _single_text(self) -> str:
        found = self.scores
        return _aligned(
            [
                ["mAP", *_figures(found.mean_average_precision), self.interval("mean_average_precision")],
                ["f1_of_averages", *_figures(found.f1_of_averages), self.interval("f1_of_averages")],
                ["  at global threshold", *_figures(found.global_threshold), ""],
                ["Hamming loss", *_figures(found.hamming_loss), ""],
                ["subset accuracy", *_figures(found.subset_accuracy), ""],
                ["calibration error", *_figures(found.expected_calibration_error), ""],
            ]
        )

    def _genres_text(self) -> str:
        rows = [["genre", "precision", "recall", "F1", "95 % interval", "AP", "movies", "predicted"]]
        for one in self.scores.genres:
            precision = "-" if one.average_precision is None else f"{one.average_precision:.3f}"
            figures = [*_figures(one.precision, one.recall, one.f1), self.interval(one.genre), precision]
            rows.append([one.genre, *figures, f"{one.support:,}", f"{one.predicted:,}"])
        return _aligned(rows)

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
    movies, predictions = Table(config.movies, MOVIES), Table(config.predictions, PREDICTIONS)
    threshold = _global_threshold(config, predictions)
    truth = _movies_of(movies, config)
    rows = _joined(truth["imdb_id"], predictions, config)
    labels = from_per_genre(truth["labels"])
    probabilities = from_per_genre(rows["probabilities"])
    predicted = np.isfinite(probabilities).all(axis=1)
    probabilities[~predicted] = 0
    decided = _decisions(rows["genres"], config.predictions) & predicted[:, None]
    bootstrap = Bootstrap(resamples=config.resamples, seed=config.seed)
    report = Report(
        split=config.split,
        having=config.having,
        movies=len(labels),
        unpredicted=int(np.count_nonzero(~predicted)),
        statuses={entry["values"]: entry["counts"] for entry in rows["status"].value_counts().to_pylist()},
        scores=scores(probabilities, decided, labels, threshold),
        intervals=bootstrap_intervals(probabilities, decided, labels, threshold, bootstrap),
        resamples=config.resamples,
        seed=config.seed,
        predictions_fingerprint=predictions.manifest.fingerprint,
        dataset_fingerprint=movies.manifest.fingerprint,
    )
    storage.write_bytes(storage.join(config.output, REPORT), report.model_dump_json(indent=2).encode())
    return report


def compare(reports: Mapping[str, Report], *, markdown: bool = False) -> str:
    """Reports side by side, one line for each name, as aligned text or as a Markdown table.

    Raises:
        ValueError: no reports, or they are not of the same movies.
    """
    scored = {(report.dataset_fingerprint, report.split, report.having) for report in reports.values()}
    if len(scored) != 1:
        raise ValueError(f"{', '.join(reports) or 'no reports'}: expected reports of the same movies")
    header = ["model", "macro F1", "95 % interval", "micro F1", "weighted F1", "samples F1", "mAP", "f1_of_averages"]
    rows = [[*header, "Hamming loss"], *(_comparison(name, report) for name, report in reports.items())]
    return _markdown(rows) if markdown else _aligned(rows)


def _comparison(name: str, report: Report) -> list[str]:
    found = report.scores
    others = (found.micro.f1, found.weighted.f1, found.samples.f1, found.mean_average_precision, found.f1_of_averages)
    interval = report.interval("macro_f1")
    return [name, *_figures(found.macro.f1), interval, *_figures(*others, found.hamming_loss)]


def _global_threshold(config: EvaluateConfig, predictions: Table) -> float:
    if config.global_threshold is not None:
        return config.global_threshold
    recorded = predictions.manifest.notes.get("thresholds")
    if recorded is None:
        raise InputError(
            f"{config.predictions}: no thresholds are recorded with these predictions; "
            "give the cut-off of f1_of_averages, such as global_threshold=0.3"
        )
    return Thresholds.parse(recorded, where=f"{config.predictions}: recorded thresholds").global_threshold


def _movies_of(movies: Table, config: EvaluateConfig) -> pa.Table:
    """Ids and labels of the movies to be scored, ordered by id."""
    is_of_split = pc.scalar(True) if config.split == "all" else pc.field("split") == config.split
    found = movies.read(["imdb_id", "labels"], filter=is_of_split & _HAVING[config.having])
    if not found.num_rows:
        counts = movies.read(["split"])["split"].value_counts().to_pylist()
        splits = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in counts) or "no movies at all"
        having = "" if config.having == "any" else f" that have {config.having}"
        raise InputError(f"{movies.directory}: no movies in split {config.split}{having}; it holds {splits}")
    # Sums, and what the bootstrap draws, depend on the order; that of the table is the order in which posters came.
    return found.sort_by("imdb_id")


def _joined(ids: pa.ChunkedArray, predictions: Table, config: EvaluateConfig) -> pa.Table:
    """One row for each id, in that order: its prediction, or nulls and the status missing."""
    wanted = pc.field("imdb_id").isin(ids.combine_chunks())
    rows = predictions.read(["imdb_id", "status", "probabilities", "genres"], filter=wanted)
    if not rows.num_rows:
        others = predictions.dataset.head(3, columns=["imdb_id"])["imdb_id"]
        raise InputError(
            f"{config.predictions}: its movies ({_examples(others)}) are none of split {config.split} of "
            f"{config.movies} ({_examples(ids)}); give the predictions of those movies"
        )
    places = pc.index_in(ids, value_set=rows["imdb_id"].combine_chunks())
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


def _figures(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
