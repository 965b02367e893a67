"""The section on scores: models beside each other, their differences, and each genre's scores and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from mmgenre.evaluation.compare import differences, side_by_side
from mmgenre.evaluation.job import Judged, Truth
from mmgenre.labels import GENRES
from mmgenre.report import charts as axes
from mmgenre.report.blocks import Block, Chart, Missing, Panel, Part, Section, Table, Text
from mmgenre.report.genre_intervals import GenreIntervals
from mmgenre.report.thresholds import Cutoffs
from mmgenre.report.training_section import Trained
from mmgenre.scoring.curves import precision_recall
from mmgenre.scoring.metrics import GenreScores
from mmgenre.text_tables import percent

SMALL = (3.0, 2.4)
_KINDS = ("plot", "poster", "plot + poster")
_UNKNOWN = "not known"


@dataclass(frozen=True)
class Scored:
    """One model's predictions, scored.

    Args:
        judged: the scores and what they were made from.
        intervals: of the genres' scores.
        cutoffs: that decided.
        trained: what its checkpoint tells; None: it is not given.
    """

    judged: Judged
    intervals: GenreIntervals
    cutoffs: Cutoffs
    trained: Trained | None

    @property
    def genres(self) -> tuple[GenreScores, ...]:
        """Each genre's scores."""
        return self.judged.report.scores.genres

    @property
    def reads(self) -> str:
        """What the model reads, in words."""
        return _UNKNOWN if self.trained is None else self.trained.reads


def scores_section(truth: Truth | None, models: Mapping[str, Scored], against: str | None) -> Section:
    """All that is said of several models at once; `against`: the one that the others are tested against."""
    if truth is None:
        way = "Give the predictions of a model: models.NAME.predictions=DIR, and for more of it its checkpoint: "
        return Section("scores", "Scores", [Missing("Scores", f"{way}models.NAME.checkpoint=DIR.")])
    config = truth.config
    having = "" if config.having == "any" else f" that have {config.having}"
    text = f"{len(truth.labels):,} movies of split {config.split}{having}. Intervals are 95 % bootstrap intervals from "
    text += f"{config.resamples:,} resamples of these movies: how far a score would move on other movies of their kind."
    parts = [
        Part("models", "Models side by side", _models(truth, models, against)),
        Part("by-genre", "Genre by genre", [_intervals_chart(models), *_genre_tables(models)]),
        Part("precision-recall", "Precision and recall", [_precision_recall(truth, models)]),
    ]
    return Section("scores", "Scores", [Text(text)], parts)


def _models(truth: Truth, models: Mapping[str, Scored], against: str | None) -> list[Block]:
    """Tables of text, poster and fusion models, in this order."""
    order = [*_KINDS, _UNKNOWN]
    ranked = sorted(models, key=lambda name: order.index(models[name].reads))
    header, *rows = side_by_side({name: models[name].judged.report for name in ranked})
    table = [[name, models[name].reads, *cells] for name, (_, *cells) in zip(ranked, rows, strict=True)]
    blocks: list[Block] = [
        Table("Scores of all models, by what they read.", [header[0], "reads", *header[1:]], table, texts=(1,)),
        _predictions_table(truth, models),
    ]
    unknown = [name for name, model in models.items() if model.trained is None]
    if unknown:
        way = f"Give their checkpoints: {', '.join(f'models.{name}.checkpoint=DIR' for name in unknown)}."
        blocks.append(Missing(f"What {', '.join(unknown)} read{'s' if len(unknown) == 1 else ''}", way))
    if against is not None and len(models) > 1:
        blocks.append(_differences_table(models, against))
    elif len(models) == 1:
        blocks.append(
            Missing(
                "Differences between models",
                "Give the predictions of another model, too: models.OTHER.predictions=DIR.",
            )
        )
    return blocks


def _predictions_table(truth: Truth, models: Mapping[str, Scored]) -> Table:
    rows = []
    for name, model in models.items():
        report = model.judged.report
        statuses = ", ".join(
            f"{status.replace('_', ' ')} {count:,}" for status, count in sorted(report.statuses.items())
        )
        dataset = None if model.trained is None else model.trained.card.dataset
        same = _UNKNOWN if dataset is None else "this table" if dataset == truth.fingerprint else "another table"
        rows.append([name, f"{report.unpredicted:,} ({percent(report.unpredicted, report.movies)})", statuses, same])
    caption = (
        "What predictions rest on. Movies without one count as no genre at all. A model that learned from another "
        "table may have learned from movies that it is scored on."
    )
    return Table(
        caption, ["model", "movies without a prediction", "predictions rest on", "learned from"], rows, texts=(2, 3)
    )


def _differences_table(models: Mapping[str, Scored], against: str) -> Table:
    others = [name for name in models if name != against]
    found = {name: differences(models[name].judged, models[against].judged) for name in others}
    header = [f"difference from {against}", "macro F1", "mAP", "f1_of_averages"]
    rows = [[name, *map(str, of_score.values())] for name, of_score in found.items()]
    caption = (
        f"How far each model is from {against} on the same movies, with 95 % interval, and p of a two-sided bootstrap "
    )
    caption += "test that there is no difference."
    return Table(caption, header, rows)


def _intervals_chart(models: Mapping[str, Scored]) -> Chart:
    names, scored = list(models), list(models.values())
    size = (3.6, max(2.9, 0.6 + 9 * (0.14 * len(models) + 0.1)))
    panels = []
    for score, limits_of in (("f1", "f1"), ("precision", "precision"), ("recall", "recall")):
        values = np.array([[getattr(one, score) for one in model.genres] for model in scored])
        limits = np.array([getattr(model.intervals, limits_of) for model in scored])
        panels.append(_interval_panel(score, values, limits, names, size))
    caption = "Each genre's F1, precision and recall, as decided; lines are 95 % intervals."
    return Chart("scores-by-genre", caption, panels, _key(names, with_lines=False) if len(names) > 1 else None)


def _interval_panel(
    score: str, values: np.ndarray, limits: np.ndarray, names: Sequence[str], size: tuple[float, float]
) -> Panel:
    title = "F1" if score == "f1" else score
    model, best = (int(place) for place in np.unravel_index(int(values.argmax()), values.shape))
    worst = int(values[model].argmin())
    says = f"The highest {title} is {names[model]}'s of {GENRES[best]}: {values[model, best]:.3f}; its lowest is of "
    says += f"{GENRES[worst]}: {values[model, worst]:.3f}."

    def draw(drawn: Axes) -> None:
        axes.draw_intervals(drawn, GENRES, values, limits)
        drawn.set_title(title, loc="left")

    return Panel(score, says, draw, size)


def _genre_tables(models: Mapping[str, Scored]) -> list[Block]:
    header = ["genre", "precision", "recall", "F1", "AP", "movies", "predicted"]
    return [
        Table(f"{name}: scores of each genre with 95 % intervals.", header, genre_rows(model), folded=len(models) > 1)
        for name, model in models.items()
    ]


def genre_rows(model: Scored) -> list[list[str]]:
    """A row for each genre: its scores with intervals."""
    found = model.intervals
    return [
        [
            one.genre,
            _with_interval(one.precision, found.precision[place]),
            _with_interval(one.recall, found.recall[place]),
            _with_interval(one.f1, found.f1[place]),
            "-" if one.average_precision is None else f"{one.average_precision:.3f}",
            f"{one.support:,}",
            f"{one.predicted:,}",
        ]
        for place, one in enumerate(model.genres)
    ]


def _with_interval(value: float, limits: np.ndarray) -> str:
    return f"{value:.3f} [{limits[0]:.3f}, {limits[1]:.3f}]"


def _precision_recall(truth: Truth, models: Mapping[str, Scored]) -> Chart:
    panels = [_curve_panel(place, truth, models) for place in range(len(GENRES))]
    caption = (
        "Precision and recall of each genre at every cut-off. The marked point is what was decided; the dotted line is "
    )
    caption += "what guessing brings: the share of movies that have the genre."
    return Chart("precision-recall", caption, panels, _key(list(models)))


def _curve_panel(place: int, truth: Truth, models: Mapping[str, Scored]) -> Panel:
    genre, labels = GENRES[place], truth.labels[:, place]
    curves = {name: precision_recall(model.judged.probabilities[:, place], labels) for name, model in models.items()}
    points = {name: (model.genres[place].recall, model.genres[place].precision) for name, model in models.items()}
    known = {name: one for name, model in models.items() if (one := model.genres[place].average_precision) is not None}
    says = f"No movie has the genre {genre}."
    if known:
        best = max(known, key=lambda name: known[name])
        recall, precision = points[best]
        says = f"{genre}: {best} has the highest average precision, {known[best]:.3f}; as decided its precision is "
        says += f"{precision:.3f} and its recall {recall:.3f}."

    def draw(drawn: Axes) -> None:
        axes.draw_precision_recall(drawn, list(curves.values()), list(points.values()), float((labels != 0).mean()))
        drawn.set_title(genre, loc="left")

    return Panel(axes.slug(genre), says, draw, SMALL)


def _key(names: Sequence[str], *, with_lines: bool = True) -> Panel:
    says = f"Key of the charts that follow: {', '.join(names)}."
    size = (3.6, 0.12 + 0.17 * len(names))
    return Panel("key", says, lambda drawn: axes.draw_key(drawn, names, with_lines=with_lines), size)
