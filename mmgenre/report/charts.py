"""Drawing numbers into matplotlib axes. Colour is never the only difference between models or series."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter

from mmgenre.pages import drawing
from mmgenre.pages.drawing import ACCENT, MAIN
from mmgenre.scoring.curves import Reliability

# Font sizes in points, for charts shown at their own size.
SETTINGS: Mapping[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.5,
    # A dollar sign in a title is not TeX.
    "text.parse_math": False,
}
# Okabe and Ito's colours without yellow, which is hard to see on white, and grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
# One style per model or series.
_STYLES: list[dict[str, Any]] = [
    {"color": colour, "marker": marker, "linestyle": line}
    for colour, marker, line in zip(_COLOURS, "osD^vPX*", ("-", "--", "-.", ":") * 2, strict=True)
]
_MAX_NAME_LENGTH = 40
_MAX_MARKED_POINTS = 50
_SHORT_COUNTS = EngFormatter(sep="")


def draw_legend(axes: Axes, names: Sequence[str], *, with_lines: bool = True) -> None:
    """Draw only a legend: each name with its style."""
    handles = []
    for index, name in enumerate(names):
        shown = name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"
        # The space: matplotlib omits labels that begin with an underscore.
        handles.append(Line2D([], [], label=f" {shown}", **_style(index, {} if with_lines else {"linestyle": "none"})))
    axes.axis("off")
    axes.legend(handles=handles, loc="center left", frameon=False, ncols=1, handlelength=3.5)


def draw_bars(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draw horizontal bars, the first name at the top, with the bars of all series side by side."""
    height = 0.8 / len(series)
    styles = ((MAIN, ""),) if len(series) == 1 else (("#b9d7ec", ""), (MAIN, "////"), (ACCENT, "...."))
    for index, ((label, values), (colour, hatch)) in enumerate(zip(series.items(), styles, strict=False)):
        centres = np.arange(len(names)) + (index - (len(series) - 1) / 2) * height
        options: dict[str, Any] = {"label": label, "color": colour, "hatch": hatch}
        bars = axes.barh(centres, values, height=height * 0.92, edgecolor="black", linewidth=0.4, **options)
        if len(series) == 1:
            axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=2, fontsize=7)
            axes.margins(x=0.14)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(_SHORT_COUNTS)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), frameon=False, ncols=1)


def draw_plot_lengths(axes: Axes, words: np.ndarray) -> None:
    """Draw a histogram of plot lengths, in words > 0, on a logarithmic axis, with the median."""
    median = float(np.median(words))
    axes.hist(words, bins=np.geomspace(words.min(), words.max() + 1, 30).tolist(), color=MAIN)
    axes.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median: {median:,.0f} words")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(_SHORT_COUNTS)
    axes.set(xlabel="words in the plot (log scale)", ylabel="movies")
    axes.margins(y=0.18)
    axes.legend(loc="upper right", frameon=False)


def draw_heat_map(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    scale: tuple[str, float, float],
) -> None:
    """Draw a square heat map; `names` label rows and columns, for the other arguments see `drawing.draw_cells`."""
    drawing.draw_cells(axes, values, texts, scale, aspect="equal")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    # Grid lines, because blank cells have no visible edge.
    edges = np.arange(1, len(names)) - 0.5
    axes.hlines(edges, -0.5, len(names) - 0.5, color="#dddddd", linewidth=0.5)
    axes.vlines(edges, -0.5, len(names) - 0.5, color="#dddddd", linewidth=0.5)


def draw_lines(
    axes: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str
) -> None:
    """Draw named lines given as x and y values; the points of short ones are marked."""
    for index, (name, (x, y)) in enumerate(lines.items()):
        style = _style(index, {} if len(x) <= _MAX_MARKED_POINTS else {"marker": None})
        axes.plot(x, y, label=name, markersize=4, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.grid(alpha=0.3)
    axes.margins(y=0.1)
    axes.legend(frameon=False)


def draw_intervals(axes: Axes, names: Sequence[str], values: np.ndarray, limits: np.ndarray) -> None:
    """Draw a dot and an interval per name and model, the first name at the top.

    Args:
        axes: drawn into.
        names: G names.
        values: shape (M, G) for M models, in [0, 1].
        limits: shape (M, G, 2): lower and upper ends of the intervals.
    """
    num_models = len(values)
    for model in range(num_models):
        style = _style(model, {"linestyle": "none"})
        heights = np.arange(len(names)) + (model - (num_models - 1) / 2) * 0.7 / num_models
        axes.hlines(heights, limits[model, :, 0], limits[model, :, 1], color=style["color"], linewidth=1.2)
        axes.plot(values[model], heights, markersize=4, **style)
    for boundary in np.arange(len(names) - 1) + 0.5:
        axes.axhline(boundary, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)


def draw_precision_recall(
    axes: Axes,
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    points: Sequence[tuple[float, float]],
    prevalence: float,
) -> None:
    """Draw a precision-recall curve per model, its operating point, and the precision of random guessing.

    Args:
        axes: drawn into.
        curves: recall and precision of each model.
        points: recall and precision of each model's decisions.
        prevalence: share of movies that have the genre.
    """
    axes.axhline(prevalence, color="#666666", linestyle=":", linewidth=0.8)
    for index, ((recall, precision), point) in enumerate(zip(curves, points, strict=True)):
        axes.plot(recall, precision, linewidth=1.2, **_style(index, {"marker": None}))
        axes.plot(*point, markersize=6, markeredgecolor="black", **_style(index))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(alpha=0.3)


def draw_f1_by_threshold(axes: Axes, thresholds: np.ndarray, f1: np.ndarray, in_use: float | None) -> None:
    """Draw F1 over thresholds, both of shape (C,), and mark the threshold in use."""
    drawing.draw_f1_by_threshold(axes, thresholds, f1, in_use, color=MAIN)
    if in_use is not None:
        axes.axvline(in_use, color="black", linestyle=":", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="threshold", ylabel="F1")
    axes.grid(alpha=0.3)


def draw_reliability(axes: Axes, bins: Reliability) -> None:
    """Draw a reliability diagram; grey bars show the share of predictions in each bin."""
    axes.bar(bins.mean_probability, bins.counts / max(bins.counts.sum(), 1), width=0.05, color="#cccccc", zorder=0)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.8)
    axes.vlines(bins.mean_probability, bins.low, bins.high, color=MAIN, linewidth=1)
    axes.plot(bins.mean_probability, bins.positive_share, color=MAIN, marker="o", markersize=4)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted probability", ylabel="observed frequency")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)


def _style(index: int, changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Colour, marker and line style of a model, as arguments of `Axes.plot`."""
    return {**_STYLES[index % len(_STYLES)], **changes}


def slug(name: str) -> str:
    """Turn a name into part of a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def short(count: float) -> str:
    """Format a count with two significant digits from 1000 on: 950, 1.2k, 34k."""
    return str(_SHORT_COUNTS(float(f"{count:.2g}") if count >= 1000 else count))
