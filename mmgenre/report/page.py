"""Sections become files: a picture for each chart, and the page that holds them or points to them."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmgenre import pages
from mmgenre.pages import drawing
from mmgenre.report.blocks import Chart, Panel, Section, Shown
from mmgenre.report.charts import SETTINGS

PAGE, INDEX, STYLE, NO_JEKYLL = "report.html", "index.html", "style.css", ".nojekyll"
FIGURES, POSTERS = "figures", "posters"
PICTURES = (FIGURES, POSTERS)
# All that a report may consist of, as patterns of names in its folder.
OWNED = (PAGE, INDEX, STYLE, NO_JEKYLL, *PICTURES)
_STYLES = ("style.css", "report.css")
_CSS_PIXELS = 96
_COLUMNS = 3
_PNG_DPI = 110


@dataclass(frozen=True)
class Page:
    """A page before it is printed.

    Args:
        title: its first heading.
        lead: a sentence below it.
        sections: in order.
        made_by: what made it, for the last line.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    made_by: str


@dataclass(frozen=True)
class _Picture:
    """What an `img` needs; width and height in CSS pixels."""

    src: str
    says: str
    width: int
    height: int


class Printer:
    """Prints one page.

    Args:
        site: whether pictures and style are files that the page points to, and not in the page.
    """

    def __init__(self, *, site: bool):
        self._site = site
        self._files: dict[str, bytes] = {}

    def print(self, page: Page) -> dict[str, bytes]:
        """Contents by path, relative to the report's folder; the page comes last."""
        self._files = {}
        pictures = {chart.name: self._chart(chart) for section in page.sections for chart in section.charts}
        html = pages.render(
            "report.html", title=page.title, page=page, pictures=pictures, poster=self._poster, site=self._site
        )
        if self._site:
            self._files[STYLE] = "\n".join(map(pages.render, _STYLES)).encode()
            # GitHub would otherwise hand the files to Jekyll.
            self._files[NO_JEKYLL] = b""
        self._files[INDEX if self._site else PAGE] = html.encode()
        return self._files

    def _chart(self, chart: Chart) -> list[_Picture]:
        """Writes a chart's files; returns what the page shows of it."""
        shown, drawn = [], []
        for panel in chart.all_panels:
            svg, pixels = _drawn(panel)
            name = f"{FIGURES}/{chart.name}{'-' if panel.name else ''}{panel.name}.svg"
            self._files[name] = svg
            drawn.append(Image.fromarray(pixels))
            width, height = (round(side * _CSS_PIXELS) for side in panel.size)
            shown.append(_Picture(self._address(name, svg, "image/svg+xml"), panel.says, width, height))
        key, panels = (None, drawn) if chart.key is None else (drawn[0], drawn[1:])
        self._files[f"{FIGURES}/{chart.name}.png"] = _together(key, panels)
        return shown

    def _poster(self, movie: Shown) -> str | None:
        """Where a movie's poster is; None: none is shown."""
        if movie.poster is None:
            return None
        # By content: ids come from tables, and are no safe names.
        name = f"{POSTERS}/{hashlib.sha256(movie.poster).hexdigest()[:16]}.jpg"
        if self._site:
            self._files[name] = movie.poster
        return self._address(name, movie.poster, "image/jpeg")

    def _address(self, name: str, content: bytes, media_type: str) -> str:
        return name if self._site else pages.data_uri(content, media_type)


def _drawn(panel: Panel) -> tuple[bytes, np.ndarray]:
    return drawing.svg_and_pixels(
        lambda figure: panel.draw(figure.subplots()), panel.size, dpi=_PNG_DPI, settings=SETTINGS
    )


def _together(key: Image.Image | None, panels: Sequence[Image.Image]) -> bytes:
    """Panels of one size beside and below each other as one PNG, with their key above them."""
    num_columns = min(_COLUMNS, len(panels))
    width, height = panels[0].size
    top = 0 if key is None else key.height
    whole = Image.new("RGB", (num_columns * width, top + -(-len(panels) // num_columns) * height), "white")
    if key is not None:
        whole.paste(key, (0, 0))
    for place, panel in enumerate(panels):
        row, column = divmod(place, num_columns)
        whole.paste(panel, (column * width, top + row * height))
    content = io.BytesIO()
    whole.save(content, "PNG", optimize=True)
    return content.getvalue()
