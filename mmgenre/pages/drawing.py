"""Charts as files: one palette that the colour-blind tell apart, drawn without a screen."""

import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Format = Literal["png", "svg"]
# Okabe and Ito's colours, and grey: one for each genre, in GENRES order.
GENRE_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000", "#999999")
MAIN, ACCENT = "#0072b2", "#d55e00"
# Shades of one hue, for tables of numbers.
SHADES = "Blues"
# Letters stay letters, so that an SVG can be searched and read aloud; equal charts are equal files.
_SETTINGS: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "mmgenre", "font.family": "DejaVu Sans"}


def picture(
    draw: Callable[[Figure], Any], size: tuple[float, float] = (8.0, 4.5), format: Format = "png", dpi: int = 120
) -> bytes:
    """The file of a chart.

    Args:
        draw: puts axes into the figure.
        size: inches, width and height.
        format: png or svg.
        dpi: pixels an inch, of a PNG.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else None
        figure.savefig(content, format=format, dpi=dpi, metadata=metadata)
    return content.getvalue()


def svg_and_pixels(
    draw: Callable[[Figure], Any], size: tuple[float, float], dpi: int, settings: Mapping[str, Any]
) -> tuple[bytes, np.ndarray]:
    """One chart as an SVG file, and as RGB pixels of shape (H, W, 3), uint8; drawn once and laid out once.

    Args:
        draw: puts axes into the figure.
        size: inches, width and height.
        dpi: pixels an inch.
        settings: of matplotlib, beside those of all charts.
    """
    together: dict[Any, Any] = {**_SETTINGS, **settings}
    with mpl.rc_context(together):
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        # Where things are has been found; the SVG has them in the same places.
        figure.set_layout_engine("none")
        content = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    return content.getvalue(), pixels


def draw_cutoffs(axes: Axes, cutoffs: np.ndarray, f1: np.ndarray, in_use: float | None, **style: Any) -> None:
    """F1 by cut-off, both of shape (C,), with a dot at the cut-off in use; style: of the line."""
    axes.plot(cutoffs, f1, **style)
    if in_use is not None:
        height = np.interp(in_use, cutoffs, f1)
        axes.plot(in_use, height, marker="o", color=style.get("color"), markeredgecolor="black")
