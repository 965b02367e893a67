"""The section on one model: thresholds, calibration, confusions, most confident mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from mmgenre.evaluation.job import GroundTruth
from mmgenre.labels import GENRES
from mmgenre.report import charts
from mmgenre.report.blocks import SMALL_PANEL, Block, Chart, DataTable, Panel, Paragraph, Section, Subsection
from mmgenre.report.confusion import MIN_MOVIES, Confusion, confusion
from mmgenre.report.scored_model import ScoredModel
from mmgenre.scoring.curves import f1_by_cutoff, reliability

_THRESHOLDS = np.linspace(0.01, 0.99, 99)
_BINS_PER_GENRE = 10


def model_section(number: int, name: str, truth: GroundTruth, model: ScoredModel, mistakes: Sequence[Block]) -> Section:
    """Build the section; `number` makes anchors and file names unique, `mistakes` are blocks of movies."""
    slug = f"{number}-{charts.slug(name)}"
    parts = [
        Subsection(f"thresholds-{slug}", "Thresholds", [_thresholds(slug, name, truth, model)]),
        Subsection(f"calibration-{slug}", "Calibration", _calibration(slug, name, truth, model)),
        Subsection(f"confusions-{slug}", "Confusions", _confusions(slug, name, truth, model)),
        Subsection(f"mistakes-{slug}", "Most confident mistakes", mistakes),
    ]
    return Section(f"model-{slug}", f"Model {name}", subsections=parts)


def _thresholds(slug: str, name: str, truth: GroundTruth, model: ScoredModel) -> Chart:
    f1 = f1_by_cutoff(model.predictions.probabilities, truth.labels, _THRESHOLDS)
    in_use = [None] * len(GENRES) if model.thresholds.values is None else model.thresholds.values.tolist()
    panels = [_threshold_panel(*by_genre) for by_genre in zip(GENRES, f1.T, in_use, strict=True)]
    caption = f"{name}: F1 per genre over all thresholds, on the scored movies. {model.thresholds.origin}"
    return Chart(f"thresholds-{slug}", caption, panels)


def _threshold_panel(genre: str, f1: np.ndarray, in_use: float | None) -> Panel:
    best = int(f1.argmax())
    alt = f"{genre}: F1 is highest at threshold {_THRESHOLDS[best]:.2f}: {f1[best]:.3f}."
    title = genre if in_use is None else f"{genre}: {in_use:.2f} in use"

    def draw(axes: Axes) -> None:
        charts.draw_f1_by_threshold(axes, _THRESHOLDS, f1, in_use)

    return Panel(charts.slug(genre), alt, draw, title, SMALL_PANEL)


def _calibration(slug: str, name: str, truth: GroundTruth, model: ScoredModel) -> list[Block]:
    is_predicted = model.predictions.is_predicted
    probabilities, labels = model.predictions.probabilities[is_predicted], truth.labels[is_predicted]
    if not len(labels):
        return [Paragraph(f"{name} has no prediction for any of these movies.")]
    bins = reliability(probabilities, labels)
    bias = "too low" if float((bins.positive_share - bins.mean_probability) @ bins.counts) > 0 else "too high"
    caption = (
        f"{name}: reliability diagram of the {labels.size:,} probabilities of the {len(labels):,} movies with a "
        "prediction: observed frequency per bin, with 95 % Wilson intervals. Grey bars: share of the predictions in "
        f"the bin. Expected calibration error: {bins.error:.3f}."
    )
    alt = f"Expected calibration error {bins.error:.3f}; probabilities are {bias} on average."
    panel = Panel("", alt, lambda axes: charts.draw_reliability(axes, bins), size=(3.6, 3.2))
    panels = [
        _calibration_panel(genre, probabilities[:, column], labels[:, column]) for column, genre in enumerate(GENRES)
    ]
    by_genre = f"{name}: the same per genre, in {_BINS_PER_GENRE} bins."
    return [Chart(f"calibration-{slug}", caption, [panel]), Chart(f"calibration-by-genre-{slug}", by_genre, panels)]


def _calibration_panel(genre: str, probabilities: np.ndarray, labels: np.ndarray) -> Panel:
    bins = reliability(probabilities, labels, _BINS_PER_GENRE)
    alt, title = f"{genre}: expected calibration error {bins.error:.3f}.", f"{genre}: error {bins.error:.3f}"
    return Panel(charts.slug(genre), alt, lambda axes: charts.draw_reliability(axes, bins), title, SMALL_PANEL)


def _confusions(slug: str, name: str, truth: GroundTruth, model: ScoredModel) -> list[Block]:
    is_predicted = model.predictions.is_predicted
    confusions = confusion(model.predictions.decided[is_predicted], truth.labels[is_predicted])
    if np.isnan(confusions.ratio).all():
        return [Paragraph(f"{name} has too few mistakes: no genre is missed in {MIN_MOVIES} movies or more.")]
    summary = _summary(confusions)
    caption = (
        f"{name}: how often the column's genre is predicted falsely when the row's genre is missed, relative to all "
        "movies with a prediction. 1 means no confusion. Orange cells are significantly above 1, purple ones below "
        "(Fisher's exact test, 5 % for all cells together). "
        f"Blank: fewer than {MIN_MOVIES} movies, or no false positives at all. {summary}"
    )
    panel = Panel("", summary, lambda axes: _draw_confusions(axes, confusions), size=(3.9, 3.7))
    table_caption = f"{name}: false positive rate of each genre when the row's genre is missed, and among all movies."
    return [
        Chart(f"confusions-{slug}", caption, [panel]),
        DataTable(table_caption, ["missed", "movies", *GENRES], _confusion_rows(confusions), collapsed=True),
    ]


def _summary(confusions: Confusion) -> str:
    if confusions.largest is None:
        return "No genre is significantly more often predicted falsely when another one is missed."
    row, column = confusions.largest
    return (
        f"When {GENRES[row]} is missed, {GENRES[column]} is predicted falsely for "
        f"{confusions.rate[row, column]:.0%} of the movies, {confusions.ratio[row, column]:.1f} times the usual rate."
    )


def _confusion_rows(confusions: Confusion) -> list[list[str]]:
    rows = [
        [genre, f"{missed:,}", *("" if np.isnan(rate) else f"{rate:.1%}" for rate in rates)]
        for genre, missed, rates in zip(GENRES, confusions.missed, confusions.rate, strict=True)
    ]
    return [*rows, ["all movies", "", *("-" if np.isnan(rate) else f"{rate:.1%}" for rate in confusions.base_rate)]]


def _draw_confusions(axes: Axes, confusions: Confusion) -> None:
    # On a logarithmic scale, half as often is as far from 1 as twice as often.
    shades = np.where(confusions.is_significant, np.log2(np.clip(confusions.ratio, 0.25, 4)), np.nan)
    texts = [["" if np.isnan(ratio) else f"{ratio:.1f}" for ratio in row] for row in confusions.ratio]
    charts.draw_heat_map(axes, shades, texts, GENRES, ("PuOr_r", -2, 2))
    axes.set(xlabel="predicted falsely", ylabel="missed")
