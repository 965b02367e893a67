"""Rendering a report: an SVG file per panel, and the HTML page that embeds them or links to them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mmgenre import pages
from mmgenre.pages import drawing
from mmgenre.report.blocks import Chart, MovieCard, Panel, Section
from mmgenre.report.charts import SETTINGS

PAGE, INDEX, STYLE, NO_JEKYLL = "report.html", "index.html", "style.css", ".nojekyll"
FIGURES, POSTERS = "figures", "posters"
IMAGES = (FIGURES, POSTERS)
# All files and folders of a report, which are deleted when it is replaced.
OWNED = (PAGE, INDEX, STYLE, NO_JEKYLL, *IMAGES)
_STYLES = ("style.css", "report.css")
_CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class ReportPage:
    """The content of a report.

    Args:
        title: heading of the page.
        lead: sentence below the heading.
        sections: in order.
        footer: last line of the page.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    footer: str


@dataclass(frozen=True)
class _Image:
    """Attributes of an `img` element; width and height in CSS pixels."""

    src: str
    alt: str
    width: int
    height: int


class Renderer:
    """Renders one page.

    Args:
        site: whether the page links to images and style sheet as files, instead of embedding them.
    """

    def __init__(self, *, site: bool):
        self._site = site
        self._files: dict[str, bytes] = {}

    def render(self, page: ReportPage) -> dict[str, bytes]:
        """Contents by path relative to the report's folder; the page comes last."""
        self._files = {}
        images = {chart.name: self._images(chart) for section in page.sections for chart in section.charts}
        html = pages.render(
            "report.html", title=page.title, page=page, images=images, poster=self._poster, site=self._site
        )
        if self._site:
            self._files[STYLE] = "\n".join(map(pages.render, _STYLES)).encode()
            # Keeps GitHub Pages from running the site through Jekyll.
            self._files[NO_JEKYLL] = b""
        self._files[INDEX if self._site else PAGE] = html.encode()
        return self._files

    def _images(self, chart: Chart) -> list[_Image]:
        """Draw a chart's panels; returns what the page shows."""
        images = []
        for panel in chart.all_panels:
            svg = _svg(panel)
            name = f"{FIGURES}/{chart.name}{'-' if panel.name else ''}{panel.name}.svg"
            self._files[name] = svg
            width, height = (round(side * _CSS_PIXELS_PER_INCH) for side in panel.size)
            images.append(_Image(self._address(name, svg, "image/svg+xml"), panel.alt, width, height))
        return images

    def _poster(self, movie: MovieCard) -> str | None:
        """Address of a movie's poster; None: it is not shown."""
        if movie.poster is None:
            return None
        # Named by content, because an id from a user's table may not be safe as a file name.
        name = f"{POSTERS}/{hashlib.sha256(movie.poster).hexdigest()[:16]}.jpg"
        if self._site:
            self._files[name] = movie.poster
        return self._address(name, movie.poster, "image/jpeg")

    def _address(self, name: str, content: bytes, media_type: str) -> str:
        return name if self._site else pages.data_uri(content, media_type)


def _svg(panel: Panel) -> bytes:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        panel.draw(axes)
        axes.set_title(panel.title, loc="left")

    return drawing.render_chart(draw, panel.size, "svg", SETTINGS)
