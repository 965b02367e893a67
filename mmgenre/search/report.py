"""The report of a search: a table of all trials, plots, and a Markdown page."""

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
from mmgenre.pages.drawing import ACCENT, GENRE_COLOURS, MAIN, draw_f1_by_threshold, render_chart
from mmgenre.progress import duration
from mmgenre.scoring.curves import f1_by_cutoff
from mmgenre.scoring.metrics import Objective
from mmgenre.scoring.thresholds import probabilities
from mmgenre.search.records import TrialRecord
from mmgenre.search.space import Distribution, LogUniform, point_text
from mmgenre.text_tables import markdown

PAGE, PARQUET, CSV = "search.md", "trials.parquet", "trials.csv"
SCORES, PARAMETERS, THRESHOLDS = "scores.png", "parameters.png", "thresholds.png"
FILES = (PAGE, PARQUET, CSV, SCORES, PARAMETERS, THRESHOLDS)
_MAX_TRIALS_SHOWN = 20
_CUTOFFS = np.linspace(0.02, 0.98, 97)


@dataclass(frozen=True)
class SearchReport:
    """The results of a search.

    Args:
        objective: the score that was maximised.
        space: by dotted path.
        records: all trials that started.
        best: the best one.
        card: of the best trial's checkpoint.
        logits: of the validation movies, from the best trial's model, shape (N, 9).
        labels: shape (N, 9).
        settings: the search config as text, by field.
    """

    objective: Objective
    space: Mapping[str, Distribution]
    records: Sequence[TrialRecord]
    best: TrialRecord
    card: Card
    logits: np.ndarray
    labels: np.ndarray
    settings: Mapping[str, str]

    @property
    def ranked(self) -> list[TrialRecord]:
        """All trials, the best one first."""
        return sorted(self.records, key=lambda record: record.rank(self.objective), reverse=True)

    @property
    def preset(self) -> TrialRecord | None:
        """The trial of the unchanged preset, if it has started."""
        return next((record for record in self.records if not record.point), None)

    def files(self) -> dict[str, bytes]:
        """Contents of the report's files, by name."""
        table = self.trials_table()
        parquet = io.BytesIO()
        table.to_parquet(parquet, index=False)
        return {
            PARQUET: parquet.getvalue(),
            CSV: table.to_csv(index=False).encode(),
            SCORES: render_chart(self._draw_scores),
            PARAMETERS: render_chart(self._draw_parameters),
            THRESHOLDS: render_chart(self._draw_thresholds),
            PAGE: self._page().encode(),
        }

    def trials_table(self) -> pd.DataFrame:
        """One row per trial, the best one first: status, scores, and one column per path."""
        table = pd.DataFrame([self._row(record) for record in self.ranked])
        for path in sorted({path for record in self.records for path in record.point}):
            values = [record.point.get(path) for record in self.ranked]
            is_numeric = all(value is None or isinstance(value, int | float) for value in values)
            table[path] = values if is_numeric else [None if value is None else _text(value) for value in values]
        return table

    def _row(self, record: TrialRecord) -> dict[str, Any]:
        best = record.best(self.objective)
        row = {
            "trial": record.name,
            "status": record.status,
            "is_best": record.name == self.best.name,
            "is_preset": not record.point,
            "epochs": len(record.epochs),
            "best_epoch": best.epoch if best else None,
            "seconds": record.seconds,
            "error": record.error,
        }
        return row | {name: best.scores[name] if best else None for name in self.card.scores}

    def _page(self) -> str:
        counts = sorted(Counter(record.status for record in self.records).items())
        statuses = ", ".join(f"{count} {status}" for status, count in counts)
        epochs = sum(len(record.epochs) for record in self.records)
        seconds = sum(record.seconds for record in self.records)
        preset, preset_score = self.preset, ""
        if preset is not None:
            preset_score = f"; the preset scores {preset.score(self.objective):.4f}"
            if preset.status == "stopped":
                preset_score += f", stopped after {len(preset.epochs)} epochs"
        settings = markdown([["field", "value"], *([name, f"`{value}`"] for name, value in self.settings.items())])
        sections = [
            "# Hyperparameter search",
            f"{len(self.records)} trials ({statuses}), {epochs} epochs, {duration(seconds)} of training. Best "
            f"{self.objective} on the validation movies, at thresholds fitted on other folds: "
            f"{self.best.score(self.objective):.4f}{preset_score}.",
            f"Best trial: `{point_text(self.best.point)}`. `best.yaml` is its training config, `best` its checkpoint.",
            f"![scores]({SCORES})\n\n![parameters]({PARAMETERS})\n\n![thresholds]({THRESHOLDS})",
            f"## Trials\n\n{self._trials_text()}",
            f"## Settings\n\n{settings}",
        ]
        return "\n\n".join(sections) + "\n"

    def _trials_text(self) -> str:
        rows = [["trial", self.objective, "epochs", "seconds", "status", "changes"]]
        for record in self.ranked[:_MAX_TRIALS_SHOWN]:
            figures = [f"{record.score(self.objective):.4f}", str(len(record.epochs)), f"{record.seconds:,.0f}"]
            rows.append([record.name, *figures, record.status, point_text(record.point)])
        num_more = len(self.records) - _MAX_TRIALS_SHOWN
        return markdown(rows) + (f"\n\n{num_more} more in `{CSV}`." if num_more > 0 else "")

    def _draw_scores(self, figure: Figure) -> None:
        """Left: each trial's score by epoch. Right: best score so far, by start time of the trials."""
        by_epoch, by_trial = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for record in self.records:
            is_best = record.name == self.best.name
            by_epoch.plot(
                [epoch.epoch for epoch in record.epochs],
                [epoch.scores[self.objective] for epoch in record.epochs],
                color=ACCENT if is_best else MAIN,
                linewidth=2.5 if is_best else 1,
                zorder=3 if is_best else 2,
                marker="o",
                markersize=3,
                linestyle="-" if record.point else "--",
            )
        by_start = sorted((record for record in self.records if record.epochs), key=lambda record: record.began)
        scores = [record.score(self.objective) for record in by_start]
        numbers = range(1, len(by_start) + 1)
        by_trial.plot(numbers, scores, color=MAIN, marker="o", markersize=3, linestyle="none")
        by_trial.step(numbers, np.maximum.accumulate(scores), color=ACCENT, where="post")
        by_epoch.set(xlabel="epoch", ylabel=self.objective, title="Trials (best: thick, preset: dashed)")
        by_trial.set(xlabel="trial", title="Best so far")
        for axes in (by_epoch, by_trial):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)

    def _draw_parameters(self, figure: Figure) -> None:
        """One panel per path: the score of each trial by its value."""
        records = [record for record in self.ranked if record.point and record.epochs]
        scores = [record.score(self.objective) for record in records]
        colours = [ACCENT if record.name == self.best.name else MAIN for record in records]
        all_axes = figure.subplots(1, len(self.space), sharey=True, squeeze=False)[0]
        for axes, (path, distribution) in zip(all_axes, self.space.items(), strict=True):
            values = [record.point[path] for record in records]
            is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            axes.scatter(values if is_numeric else [_text(value) for value in values], scores, c=colours, s=16)
            if isinstance(distribution, LogUniform):
                axes.set_xscale("log")
            axes.set_xlabel(path, fontsize=8)
            axes.tick_params(axis="x", labelsize=7, rotation=30)
            axes.grid(alpha=0.3)
        all_axes[0].set_ylabel(self.objective)
        figure.suptitle("Score by hyperparameter (best trial in orange)")

    def _draw_thresholds(self, figure: Figure) -> None:
        """Each genre's F1 by threshold, and the threshold in use."""
        axes: Axes = figure.subplots()
        assert self.card.thresholds is not None, "a calibrated card"  # noqa: S101 - FittedModel.card calibrates
        in_use = self.card.thresholds.cutoffs()
        f1 = f1_by_cutoff(probabilities(self.logits, self.card.temperature), self.labels, _CUTOFFS)
        for genre, name in enumerate(GENRES):
            draw_f1_by_threshold(axes, _CUTOFFS, f1[:, genre], in_use[genre], color=GENRE_COLOURS[genre], label=name)
        axes.set(xlabel="threshold", ylabel="validation F1", title="Thresholds of the best model (dots: in use)")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize=8)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
