"""How numbers are drawn into axes: bars, intervals, lines, shades. Nothing depends on colour alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from mmgenre.pages.drawing import ACCENT, MAIN, SHADES
from mmgenre.scoring.curves import Reliability

# Of letters in points, for charts that are looked at in their own size.
SETTINGS: Mapping[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.5,
    # A dollar in a name is a dollar.
    "text.parse_math": False,
}
# Okabe and Ito's but for yellow, which is hard to see on white; then greys.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
_MARKERS = "osD^vPX*<>"
Line = Literal["-", "--", "-.", ":"]
_LINES: tuple[Line, ...] = ("-", "--", "-.", ":")
_LONGEST_NAME = 40
_HATCHES = ("", "////", "....")


@dataclass(frozen=True)
class Style:
    """How one of several models is told from the others."""

    colour: str
    marker: str
    line: Line

    @classmethod
    def of(cls, place: int) -> "Style":
        """That of a model by its place among them."""
        return cls(_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)], _LINES[place % len(_LINES)])


def draw_key(axes: Axes, names: Sequence[str], *, with_lines: bool = True) -> None:
    """Nothing but names, each with its style."""
    handles = []
    for place, name in enumerate(names):
        style = Style.of(place)
        shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        # matplotlib leaves out names that begin with an underscore.
        line = Line2D([], [], color=style.colour, marker=style.marker, label=f" {shown}")
        line.set_linestyle(style.line if with_lines else "none")
        handles.append(line)
    axes.axis("off")
    axes.legend(handles=handles, loc="center left", frameon=False, ncols=1, handlelength=3.5)


def draw_bars(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Horizontal bars by name, the first name at the top; a bar of each series beside the others."""
    height = 0.8 / len(series)
    colours = ("#b9d7ec", MAIN, ACCENT)
    for number, (label, values) in enumerate(series.items()):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * height
        drawn = axes.barh(
            places,
            values,
            height=height * 0.92,
            label=label,
            color=colours[number % 3] if len(series) > 1 else MAIN,
            edgecolor="black",
            linewidth=0.4,
            hatch=_HATCHES[number % 3],
        )
        if len(series) == 1:
            axes.bar_label(drawn, labels=[f"{value:,.0f}" for value in values], padding=2, fontsize=7)
            axes.margins(x=0.14)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), frameon=False, ncols=1)


def draw_columns(axes: Axes, names: Sequence[str], counts: Sequence[int]) -> None:
    """Upright bars with their counts above them."""
    drawn = axes.bar(range(len(names)), counts, color=MAIN)
    axes.bar_label(drawn, labels=[f"{count:,}" for count in counts], padding=1, fontsize=7)
    axes.set_xticks(range(len(names)), names)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_ylabel("movies")
    axes.margins(y=0.12)


def draw_lengths(axes: Axes, edges: np.ndarray, counts: np.ndarray, middle: float) -> None:
    """A histogram over words on a logarithmic scale, with the median."""
    axes.stairs(counts, edges, fill=True, color=MAIN)
    axes.axvline(middle, color="black", linestyle="--", linewidth=1, label=f"median: {middle:,.0f} words")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set(xlabel="words in the plot (log scale)", ylabel="movies")
    axes.margins(y=0.18)
    axes.legend(loc="upper right", frameon=False)


def draw_shades(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    scale: tuple[float, float, str],
) -> None:
    """A square of shades with a text in each cell; NaN is left white.

    Args:
        axes: drawn into.
        values: shape (G, G), what is shaded.
        texts: of the cells.
        names: of rows and columns.
        scale: the values of the lightest and the darkest shade, and the colour map.
    """
    low, high, colours = scale
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="equal")
    for row in range(len(names)):
        for column in range(len(names)):
            value = values[row, column]
            red, green, blue, _ = (1, 1, 1, 1) if np.isnan(value) else image.cmap(image.norm(value))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                column, row, texts[row][column], ha="center", va="center", fontsize=7, color="w" if is_dark else "k"
            )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    # Cells without a shade have edges, too.
    between = np.arange(1, len(names)) - 0.5
    axes.hlines(between, -0.5, len(names) - 0.5, color="#dddddd", linewidth=0.5)
    axes.vlines(between, -0.5, len(names) - 0.5, color="#dddddd", linewidth=0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_square(axes: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Shades from 0 to the highest value beside the diagonal."""
    beside = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    top = 1.0 if np.isnan(beside).all() else max(float(np.nanmax(beside)), 1e-9)
    draw_shades(axes, values, texts, names, (0, top, SHADES))


def draw_curves(
    axes: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], labels: tuple[str, str]
) -> None:
    """Named lines through a few points, each of which is marked; labels: of the two axes."""
    for place, (name, (across, up)) in enumerate(curves.items()):
        style = Style.of(place)
        axes.plot(across, up, color=style.colour, linestyle=style.line, marker=style.marker, markersize=4, label=name)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.3)
    axes.margins(y=0.1)
    axes.legend(frameon=False)


def draw_intervals(axes: Axes, names: Sequence[str], values: np.ndarray, limits: np.ndarray) -> None:
    """A dot with an interval for each name and model; values (M, G), limits (M, G, 2), the first name at the top."""
    num_models = len(values)
    for place in range(num_models):
        style = Style.of(place)
        heights = np.arange(len(names)) + (place - (num_models - 1) / 2) * 0.7 / num_models
        axes.hlines(heights, limits[place, :, 0], limits[place, :, 1], color=style.colour, linewidth=1.2)
        axes.plot(values[place], heights, color=style.colour, marker=style.marker, markersize=4, linestyle="none")
    for line in np.arange(len(names) - 1) + 0.5:
        axes.axhline(line, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)


def draw_precision_recall(
    axes: Axes,
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    points: Sequence[tuple[float, float]],
    share: float,
) -> None:
    """Curves of several models, a point on or beside each, and what guessing brings; recall first, then precision."""
    axes.axhline(share, color="#666666", linestyle=":", linewidth=0.8)
    for place, ((recall, precision), point) in enumerate(zip(curves, points, strict=True)):
        style = Style.of(place)
        axes.plot(recall, precision, color=style.colour, linestyle=style.line, linewidth=1.2)
        axes.plot(*point, color=style.colour, marker=style.marker, markersize=6, markeredgecolor="black")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(alpha=0.3)


def draw_reliability(axes: Axes, found: Reliability) -> None:
    """What came true of what was promised, with the share of predictions in each bin as grey bars."""
    axes.bar(found.promised, found.counts / max(found.counts.sum(), 1), width=0.05, color="#cccccc", zorder=0)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.8)
    axes.vlines(found.promised, found.low, found.high, color=MAIN, linewidth=1)
    axes.plot(found.promised, found.came_true, color=MAIN, marker="o", markersize=4)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share that has the genre")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)


def draw_rates(axes: Axes, rates: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Named learning rates by step."""
    for place, (name, (steps, values)) in enumerate(rates.items()):
        style = Style.of(place)
        axes.plot(steps, values, color=style.colour, linestyle=style.line, label=name)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def slug(name: str) -> str:
    """A name as part of a file's: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def short(value: float) -> str:
    """A count in as few letters as will do, such as 950, 1.2k, 34k."""
    if abs(value) < 1000:
        return f"{value:.0f}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            shown = value / size
            return (
                f"{shown:.1f}{letter}" if shown < 9.95 and round(shown, 1) != round(shown) else f"{shown:.0f}{letter}"
            )
    return f"{value:.0f}"
