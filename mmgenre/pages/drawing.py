"""Charts as PNG or SVG bytes, drawn by matplotlib without a display, in colours that are safe for the colour-blind."""

import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Format = Literal["png", "svg"]
# The colours of Okabe and Ito, and grey: one per genre, in GENRES order.
GENRE_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000", "#999999")
MAIN, ACCENT = "#0072b2", "#d55e00"
# Sequential colour map for heat maps.
SHADES = "Blues"
# SVG text stays text, so that it can be searched and read aloud; the fixed salt makes equal charts equal files.
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "mmgenre", "font.family": "DejaVu Sans"}


def render_chart(
    draw: Callable[[Figure], Any],
    size: tuple[float, float] = (8.0, 4.5),
    format: Format = "png",
    settings: Mapping[Any, Any] = MappingProxyType({}),
) -> bytes:
    """Draw a chart and return it as the bytes of an image file.

    Args:
        draw: adds axes to the figure.
        size: width and height in inches; a PNG has 120 pixels per inch.
        format: png or svg.
        settings: matplotlib settings for this chart.
    """
    with mpl.rc_context({**_SETTINGS, **settings}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = io.BytesIO()
        figure.savefig(content, format=format, dpi=120, metadata={"Date": None} if format == "svg" else None)
    return content.getvalue()


def draw_cells(
    axes: Axes,
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    scale: tuple[str, float, float],
    **image_options: Any,
) -> None:
    """Draw a heat map with a text in each cell, black or white for contrast; NaN cells stay blank.

    Args:
        axes: drawn into.
        values: shape (R, C).
        texts: R rows of C cell texts.
        scale: colour map, and the values at its two ends.
        image_options: passed to `imshow`.
    """
    colours, low, high = scale
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, **image_options)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = (1, 1, 1, 1) if np.isnan(value) else image.cmap(image.norm(value))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        colour = "white" if is_dark else "black"
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=7, color=colour)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_f1_by_threshold(
    axes: Axes, thresholds: np.ndarray, f1: np.ndarray, in_use: float | None, **style: Any
) -> None:
    """Draw F1 over thresholds, both of shape (C,), with a dot at the threshold in use; `style` applies to the line."""
    axes.plot(thresholds, f1, **style)
    if in_use is not None:
        height = np.interp(in_use, thresholds, f1)
        axes.plot(in_use, height, marker="o", color=style.get("color"), markeredgecolor="black")
