"""Charts as files: one palette that the colour-blind tell apart, drawn without a screen."""

import io
from collections.abc import Callable
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Format = Literal["png", "svg"]
# Okabe and Ito's colours, and grey: one for each genre, in GENRES order.
GENRE_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000", "#999999")
MAIN, ACCENT = "#0072b2", "#d55e00"
# Shades of one hue, for tables of numbers.
SHADES = "Blues"
# Letters stay letters, so that an SVG can be searched and read aloud; equal charts are equal files.
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "mmgenre", "font.family": "DejaVu Sans"}


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
