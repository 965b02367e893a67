"""The account of a search: a table of all trials, plots, and a page that says what came of it."""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.pages.drawing import ACCENT, GENRE_COLOURS, MAIN, draw_cutoffs, picture
from mmgenre.progress import duration
from mmgenre.scoring.curves import f1_by_cutoff
from mmgenre.scoring.metrics import Objective
from mmgenre.scoring.thresholds import probabilities
from mmgenre.search.records import TrialRecord, said_of
from mmgenre.text_tables import markdown

PAGE, PARQUET, CSV = "search.md", "trials.parquet", "trials.csv"
SCORES, PATHS, CUTOFFS = "scores.png", "parameters.png", "thresholds.png"
FILES = (PAGE, PARQUET, CSV, SCORES, PATHS, CUTOFFS)
_NUM_SHOWN = 20
_CUTOFFS = np.linspace(0.02, 0.98, 97)


@dataclass(frozen=True)
class Account:
    """All that the account is made of.

    Args:
        objective: what was maximised.
        records: of all trials that began.
        best: one of them.
        card: of the best one's checkpoint.
        logits: of the validation movies by the best one, shape (N, 9).
        labels: shape (N, 9).
        asked: what the search was asked for, by field.
    """

    objective: Objective
    records: Sequence[TrialRecord]
    best: TrialRecord
    card: Card
    logits: np.ndarray
    labels: np.ndarray
    asked: Mapping[str, str]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Trials, the best first."""
        return sorted(self.records, key=lambda record: record.rank(self.objective), reverse=True)

    @property
    def preset(self) -> TrialRecord | None:
        """The trial of the preset itself; none if there was none."""
        return next((record for record in self.records if not record.point), None)


def files(account: Account) -> dict[str, bytes]:
    """Contents by file name."""
    table = trials_table(account)
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    return {
        PARQUET: parquet.getvalue(),
        CSV: table.to_csv(index=False).encode(),
        SCORES: _picture(_draw_scores, account),
        PATHS: _picture(_draw_paths, account),
        CUTOFFS: _picture(_draw_cutoffs, account),
        PAGE: _page(account).encode(),
    }


def trials_table(account: Account) -> pd.DataFrame:
    """A row for each trial, the best first: how it went, its scores, and what it changed, by path."""
    rows = [_row(account, record) for record in account.ranked]
    paths = sorted({path for record in account.records for path in record.point})
    table = pd.DataFrame(rows)
    for path in paths:
        values = [record.point.get(path) for record in account.ranked]
        plain = all(value is None or isinstance(value, int | float) for value in values)
        table[path] = values if plain else [None if value is None else _text(value) for value in values]
    return table


def _row(account: Account, record: TrialRecord) -> dict[str, Any]:
    best = record.best(account.objective)
    found = {
        "trial": record.name,
        "status": record.status,
        "is_best": record.name == account.best.name,
        "is_preset": not record.point,
        "epochs": len(record.epochs),
        "best_epoch": best.epoch if best else None,
        "seconds": record.seconds,
        "error": record.error,
    }
    return found | {name: best.scores[name] if best else None for name in account.card.scores}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _page(account: Account) -> str:
    records, preset = account.records, account.preset
    counted = sorted(Counter(record.status for record in records).items())
    statuses = ", ".join(f"{status} {count}" for status, count in counted)
    epochs, seconds = sum(len(record.epochs) for record in records), sum(record.seconds for record in records)
    better = "" if preset is None else f"; the preset has {preset.score(account.objective):.4f}"
    if preset is not None and preset.status == "stopped":
        better += f", and was stopped after {len(preset.epochs)} epochs"
    asked = markdown([["field", "value"], *([name, f"`{value}`"] for name, value in account.asked.items())])
    parts = [
        "# A search",
        f"{len(records)} trials ({statuses}), {epochs} epochs, {duration(seconds)} of training. Highest "
        f"{account.objective} of the validation movies, at thresholds fitted on other folds of them: "
        f"{account.best.score(account.objective):.4f}{better}.",
        f"Best: `{said_of(account.best.point)}`. Its training is `best.yaml`, its checkpoint is the folder `best`.",
        f"![scores]({SCORES})\n\n![parameters]({PATHS})\n\n![thresholds]({CUTOFFS})",
        f"## Trials\n\n{_trials_text(account)}",
        f"## Asked for\n\n{asked}",
    ]
    return "\n\n".join(parts) + "\n"


def _trials_text(account: Account) -> str:
    shown = account.ranked[:_NUM_SHOWN]
    rows = [["trial", account.objective, "epochs", "seconds", "status", "changes"]]
    for record in shown:
        figures = [f"{record.score(account.objective):.4f}", str(len(record.epochs)), f"{record.seconds:,.0f}"]
        rows.append([record.name, *figures, record.status, said_of(record.point)])
    more = len(account.records) - len(shown)
    return markdown(rows) + (f"\n\nAnd {more} more in `{CSV}`." if more else "")


def _picture(draw: Any, account: Account) -> bytes:
    return picture(lambda figure: draw(figure, account))


def _draw_scores(figure: Figure, account: Account) -> None:
    """Each trial's score after each of its epochs; and the best trial so far, in the order in which they began."""
    by_epoch, by_trial = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for record in account.records:
        by_epoch.plot(
            [epoch.epoch for epoch in record.epochs],
            [epoch.scores[account.objective] for epoch in record.epochs],
            **_style(record.name == account.best.name),
            marker="o",
            markersize=3,
            linestyle="-" if record.point else "--",
        )
    order = sorted((record for record in account.records if record.epochs), key=lambda record: record.began)
    scores = [record.score(account.objective) for record in order]
    numbers = range(1, len(order) + 1)
    by_trial.plot(numbers, scores, color=MAIN, marker="o", markersize=3, linestyle="none")
    by_trial.step(numbers, np.maximum.accumulate(scores), color=ACCENT, where="post")
    by_epoch.set(xlabel="epoch", ylabel=account.objective, title="Trials: the best thick, the preset dashed")
    by_trial.set(xlabel="trial", title="The best so far")
    for axes in (by_epoch, by_trial):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)


def _style(is_best: bool) -> dict[str, Any]:
    return (
        {"color": ACCENT, "linewidth": 2.5, "zorder": 3} if is_best else {"color": MAIN, "linewidth": 1, "alpha": 0.6}
    )


def _draw_paths(figure: Figure, account: Account) -> None:
    """Parallel coordinates: a line for each trial through its values, the better the darker."""
    axes = figure.subplots()
    records = [record for record in account.ranked if record.point and record.epochs]
    paths = list(dict.fromkeys(path for record in records for path in record.point))
    columns = [_column([record.point[path] for record in records], path) for path in paths]
    columns.append(_column([record.score(account.objective) for record in records], account.objective))
    for number, record in reversed(list(enumerate(records))):
        places = [column.places[number] for column in columns]
        axes.plot(range(len(columns)), places, **_style(record.name == account.best.name))
    for number, column in enumerate(columns):
        axes.axvline(number, color="black", linewidth=0.8)
        for place, text in column.ticks:
            axes.text(number, place, f" {text}", va="center", fontsize=7)
    axes.set_xticks(range(len(columns)), [column.name for column in columns], rotation=20, ha="right", fontsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.2, len(columns) - 0.5), ylim=(-0.05, 1.05))
    axes.set_title("What trials changed, and what it brought: the best one thick")


@dataclass(frozen=True)
class _Column:
    """One axis of parallel coordinates: where each trial crosses it, between 0 and 1, and what stands beside it."""

    name: str
    places: list[float]
    ticks: list[tuple[float, str]]


def _column(values: Sequence[Any], name: str) -> _Column:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers:
        texts = sorted({_text(value) for value in values})
        step = 1 / max(1, len(texts) - 1)
        heights = {text: number * step for number, text in enumerate(texts)}
        return _Column(name, [heights[_text(value)] for value in values], [(heights[text], text) for text in texts])
    low, high = min(values, default=0), max(values, default=0)
    is_logarithmic = low > 0 and high / low > 20
    scale = np.log if is_logarithmic else np.asarray
    span = float(scale(high) - scale(low)) or 1.0
    places = [float(scale(value) - scale(low)) / span for value in values]
    return _Column(f"{name} (log)" if is_logarithmic else name, places, [(0, f"{low:.3g}"), (1, f"{high:.3g}")])


def _draw_cutoffs(figure: Figure, account: Account) -> None:
    """F1 of each genre by its cut-off, and the one in use."""
    axes: Axes = figure.subplots()
    assert account.card.thresholds is not None, "a calibrated card"  # noqa: S101 - card_of calibrates
    chances, used = probabilities(account.logits, account.card.temperature), account.card.thresholds.cutoffs()
    f1 = f1_by_cutoff(chances, account.labels, _CUTOFFS)
    for genre, name in enumerate(GENRES):
        draw_cutoffs(axes, _CUTOFFS, f1[:, genre], used[genre], color=GENRE_COLOURS[genre], label=name)
    axes.set(
        xlabel="cut-off", ylabel="F1 of the validation movies", title="Cut-offs of the best model: dots are in use"
    )
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
