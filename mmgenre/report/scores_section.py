"""The section that compares models: overall scores, differences, scores per genre, precision-recall curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from mmgenre.evaluation.compare import comparison_rows, differences
from mmgenre.evaluation.job import GroundTruth
from mmgenre.labels import GENRES
from mmgenre.report import charts
from mmgenre.report.blocks import (
    SMALL_PANEL,
    Block,
    Chart,
    DataTable,
    MissingInput,
    Panel,
    Paragraph,
    Section,
    Subsection,
)
from mmgenre.report.scored_model import UNKNOWN, ScoredModel
from mmgenre.scoring.curves import precision_recall
from mmgenre.text_tables import percent

# Tables list models in this order.
_INPUTS = ("plot", "poster", "plot + poster", UNKNOWN)


def scores_section(truth: GroundTruth | None, models: Mapping[str, ScoredModel], baseline: str | None) -> Section:
    """Build the section.

    Args:
        truth: the movies and labels scored against; None: no predictions were given.
        models: by name.
        baseline: the model that the others are tested against.
    """
    if truth is None:
        remedy = "Give a model's predictions and checkpoint: models.NAME.predictions=DIR models.NAME.checkpoint=DIR."
        return Section("scores", "Scores", [MissingInput("Scores", remedy)])
    config = truth.config
    having = "" if config.having == "any" else f" that have {config.having}"
    text = (
        f"{len(truth.labels):,} movies of split {config.split}{having}. Intervals are 95 % bootstrap intervals, from "
        f"{config.resamples:,} resamples of these movies."
    )
    parts = [
        Subsection("models", "Model comparison", _comparison(truth, models, baseline)),
        Subsection("by-genre", "Scores by genre", [_intervals_chart(models), *_genre_tables(models)]),
        Subsection("precision-recall", "Precision-recall curves", [_precision_recall(truth, models)]),
    ]
    return Section("scores", "Scores", [Paragraph(text)], parts)


def _comparison(truth: GroundTruth, models: Mapping[str, ScoredModel], baseline: str | None) -> list[Block]:
    ranked = sorted(models, key=lambda name: _INPUTS.index(models[name].reads))
    header, *rows = comparison_rows({name: models[name].predictions.report for name in ranked})
    table = [[name, models[name].reads, *cells] for name, (_, *cells) in zip(ranked, rows, strict=True)]
    blocks: list[Block] = [
        DataTable("Scores of all models, by input.", [header[0], "input", *header[1:]], table, text_columns=(1,)),
        _predictions_table(truth, models),
    ]
    without = [name for name, model in models.items() if model.training is None]
    if without:
        remedy = f"Give their checkpoints: {', '.join(f'models.{name}.checkpoint=DIR' for name in without)}."
        blocks.append(MissingInput(f"Inputs of {', '.join(without)}", remedy))
    if len(models) == 1:
        remedy = "Give the predictions of another model: models.OTHER.predictions=DIR."
        blocks.append(MissingInput("Differences between models", remedy))
    elif baseline is not None:
        blocks.append(_differences_table(models, baseline))
    return blocks


def _predictions_table(truth: GroundTruth, models: Mapping[str, ScoredModel]) -> DataTable:
    rows = []
    for name, model in models.items():
        report = model.predictions.report
        counts = sorted(report.statuses.items())
        statuses = ", ".join(f"{status.replace('_', ' ')} {count:,}" for status, count in counts)
        trained_on = UNKNOWN
        if model.training is not None and model.training.card.dataset is not None:
            trained_on = "this dataset" if model.training.card.dataset == truth.fingerprint else "another dataset"
        unpredicted = f"{report.unpredicted:,} ({percent(report.unpredicted, report.movies)})"
        rows.append([name, unpredicted, statuses, trained_on])
    caption = (
        "Coverage. Movies without a prediction are scored as having no genre. A model trained on another dataset may "
        "have seen the movies it is scored on."
    )
    header = ["model", "movies without a prediction", "movies by available input", "trained on"]
    return DataTable(caption, header, rows, text_columns=(2, 3))


def _differences_table(models: Mapping[str, ScoredModel], baseline: str) -> DataTable:
    compared = {
        name: differences(model.predictions, models[baseline].predictions)
        for name, model in models.items()
        if name != baseline
    }
    header = [f"difference from {baseline}", "macro F1", "mAP", "f1_of_averages"]
    rows = [[name, *map(str, by_score.values())] for name, by_score in compared.items()]
    caption = f"Differences from {baseline} on the same movies, with 95 % intervals and p-values of a two-sided "
    return DataTable(f"{caption}bootstrap test.", header, rows)


def _intervals_chart(models: Mapping[str, ScoredModel]) -> Chart:
    size = (3.6, max(2.9, 0.6 + len(GENRES) * (0.14 * len(models) + 0.1)))
    panels = []
    for score in ("f1", "precision", "recall"):
        values = np.array([[getattr(scores, score) for scores in model.genres] for model in models.values()])
        limits = np.array([model.intervals[score] for model in models.values()])
        panels.append(_interval_panel(score, values, limits, size))
    caption = "F1, precision and recall per genre, with 95 % intervals."
    return Chart(
        "scores-by-genre", caption, panels, _legend(list(models), with_lines=False) if len(models) > 1 else None
    )


def _interval_panel(score: str, values: np.ndarray, limits: np.ndarray, size: tuple[float, float]) -> Panel:
    title = "F1" if score == "f1" else score
    best = GENRES[int(values.max(axis=0).argmax())]
    alt = f"{title} is highest for {best}: {values.max():.3f}."
    return Panel(score, alt, lambda axes: charts.draw_intervals(axes, GENRES, values, limits), title, size)


def _genre_tables(models: Mapping[str, ScoredModel]) -> list[Block]:
    header = ["genre", "precision", "recall", "F1", "AP", "movies", "predicted"]
    collapsed = len(models) > 1
    return [
        DataTable(f"{name}: scores per genre with 95 % intervals.", header, genre_rows(model), collapsed=collapsed)
        for name, model in models.items()
    ]


def genre_rows(model: ScoredModel) -> list[list[str]]:
    """Scores with intervals, one row per genre."""
    rows = []
    for column, scores in enumerate(model.genres):
        cells = []
        for name in ("precision", "recall", "f1"):
            low, high = model.intervals[name][column]
            cells.append(f"{getattr(scores, name):.3f} [{low:.3f}, {high:.3f}]")
        average = "-" if scores.average_precision is None else f"{scores.average_precision:.3f}"
        rows.append([scores.genre, *cells, average, f"{scores.support:,}", f"{scores.predicted:,}"])
    return rows


def _precision_recall(truth: GroundTruth, models: Mapping[str, ScoredModel]) -> Chart:
    panels = [_curve_panel(column, truth.labels[:, column], models) for column in range(len(GENRES))]
    caption = (
        "Precision and recall per genre over all thresholds. The marker is the threshold in use; the dotted line is "
        "random guessing, whose precision is the share of movies with the genre."
    )
    return Chart("precision-recall", caption, panels, _legend(list(models)))


def _curve_panel(column: int, labels: np.ndarray, models: Mapping[str, ScoredModel]) -> Panel:
    genre, scores = GENRES[column], [model.genres[column] for model in models.values()]
    curves = [precision_recall(model.predictions.probabilities[:, column], labels) for model in models.values()]
    points = [(score.recall, score.precision) for score in scores]
    averages = [
        f"{name} {score.average_precision:.3f}"
        for name, score in zip(models, scores, strict=True)
        if score.average_precision is not None
    ]
    alt = f"{genre}: average precision {', '.join(averages)}." if averages else f"No movie has the genre {genre}."
    prevalence = float((labels != 0).mean())

    def draw(axes: Axes) -> None:
        charts.draw_precision_recall(axes, curves, points, prevalence)

    return Panel(charts.slug(genre), alt, draw, genre, SMALL_PANEL)


def _legend(names: Sequence[str], *, with_lines: bool = True) -> Panel:
    size = (3.6, 0.12 + 0.17 * len(names))
    alt = f"Legend: {', '.join(names)}."
    return Panel("legend", alt, lambda axes: charts.draw_legend(axes, names, with_lines=with_lines), size=size)
